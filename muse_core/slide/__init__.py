"""Slides: open any format, know its µm/px, read RGB in level-0 coordinates. The only importer of the slide readers."""

from muse_core.slide.info import Level, Mpp, SlideInfo
from muse_core.slide.jpeg_tiles import JpegTiles
from muse_core.slide.slide import Slide, open_slide

__all__ = ["JpegTiles", "Level", "Mpp", "Slide", "SlideInfo", "open_slide"]
