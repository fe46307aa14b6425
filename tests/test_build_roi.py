"""A ROI's stored image: broken tiles are refused, and pixels lie where the ROI is said to."""

import numpy as np
import pytest

from muse_core.build_roi import build_roi, copyable_tiles
from muse_core.errors import SlideReadError
from muse_core.roi_image import RoiImage, RoiImageSettings
from muse_core.rois import RoiBox
from muse_core.slide import open_slide
from tests.data.make_slides import Drawing, break_tile, draw_aperio, tissue_image


def box_at(x: int, y: int, side_px: int) -> RoiBox:
    """A ROI of level-0 px of a slide of 0.25 µm/px."""
    return RoiBox(float(x), float(y), float(side_px), float(side_px), side_px, side_px, 0.25, 1.0, 1.0)


@pytest.mark.parametrize("copy_tiles", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 40, 700])
def test_a_roi_with_a_broken_tile_is_refused_copied_or_decoded(tmp_path, keep_bytes, copy_tiles):
    path = draw_aperio(tmp_path / "a.svs", tissue_image(1200, 960, seed=1)[0], Drawing(tile_px=240))
    break_tile(path, 3, 1, keep_bytes=keep_bytes)
    with open_slide(path) as slide, copyable_tiles(slide, 0.25) as tiles:
        source = tiles if copy_tiles else None
        with pytest.raises(SlideReadError, match="tile 3, 1"):
            build_roi(slide, box_at(480, 0, 480), None, source, RoiImageSettings())
        image, _ = build_roi(slide, box_at(0, 0, 480), None, source, RoiImageSettings())
        difference = RoiImage(image).decode().astype(int) - slide.read_level(0, 0, 480, 480)
        assert np.abs(difference).mean() <= (0 if copy_tiles else 2)
