"""Pictures of a slide and of its nuclei: kept in the output folder while the slide was at hand, or read from it now.

OUT/pictures/<slide>/overview.jpg         the view
OUT/pictures/<slide>/<nucleus_id>.jpg     a nucleus and its neighbours
"""

import io
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.uris import path_of
from muse_core.errors import MuseError, SlideReadError
from muse_core.images.pixels import Pixels
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.scan import Candidate, SlideScan, scan_slide
from muse_core.report.settings import ReportSettings
from muse_core.report.view import View, view_of
from muse_core.slide import Slide, open_slide

logger = logging.getLogger(__name__)

_QUALITY = 82


@dataclass
class Pictures:
    """JPEG files of one slide.

    Attributes:
        overview: the view; None where neither slide nor picture is at hand.
        nuclei: by nucleus_id.
        note: why pictures are missing; empty where none is.
    """

    overview: bytes | None = None
    nuclei: dict[int, bytes] = field(default_factory=dict)
    note: str = ""


def keep_pictures(out: Path, slide_id: str, slide: Slide, settings: ReportSettings | None = None) -> None:
    """Keep what a report needs of an open slide, for when its file is gone; earlier pictures of it are replaced.

    Args:
        out: the output folder, with the slide's nuclei and tissue in it.
        slide_id: the slide.
        slide: its file.
        settings: sizes; the defaults, as for `muse report`.

    Raises:
        DatasetError: the slide's nuclei are not in the dataset.
        OutputError: the disk is full or the folder cannot be written.
    """
    settings = settings or ReportSettings()
    dataset = NucleiDataset(out)
    size_level0 = slide.info.width_level0, slide.info.height_level0
    view = view_of(dataset, slide_id, RunPaths(out).tissue(slide_id), size_level0)
    scan = scan_slide(dataset, slide_id, view, settings)
    folder = _folder(out, slide_id)
    drop_pictures(out, slide_id)
    pictures = _from_slide(slide, view, pictured(scan), settings)
    named = {str(nucleus_id): jpeg for nucleus_id, jpeg in pictures.nuclei.items()}
    if pictures.overview is not None:
        named["overview"] = pictures.overview
    for name, jpeg in named.items():
        with whole_file(folder / f"{name}.jpg") as file:
            file.write_bytes(jpeg)


def drop_pictures(out: Path, slide_id: str) -> None:
    """Delete what was kept of a slide whose nuclei are replaced."""
    shutil.rmtree(_folder(out, slide_id), ignore_errors=True)


def pictured(scan: SlideScan) -> list[Candidate]:
    """The nuclei whose pictures a report shows."""
    return [*(one for of_class in scan.typical for one in of_class), *scan.doubtful]


def find_pictures(
    out: Path, slide_id: str, uri: str | None, view: View, nuclei: Iterable[Candidate], settings: ReportSettings
) -> Pictures:
    """The pictures that were kept; where there are none, those of the slide itself if its file is on this machine."""
    nuclei = list(nuclei)
    folder = _folder(out, slide_id)
    if (folder / "overview.jpg").exists():
        files = {one.nucleus_id: folder / f"{one.nucleus_id}.jpg" for one in nuclei}
        kept = {nucleus_id: path.read_bytes() for nucleus_id, path in files.items() if path.exists()}
        return Pictures((folder / "overview.jpg").read_bytes(), kept)
    path = path_of(uri) if uri else None
    if path is None or not path.exists():
        return Pictures(note="The slide's file is not at hand and no pictures were kept, so none are shown.")
    try:
        with open_slide(path, mpp_override=view.mpp_override, scene=view.scene) as slide:
            return _from_slide(slide, view, nuclei, settings)
    except MuseError as error:
        logger.warning("%s: no pictures: %s", slide_id, error)
        return Pictures(note=f"The slide's file cannot be read any more, so no pictures are shown: {error}")


def _from_slide(slide: Slide, view: View, nuclei: Iterable[Candidate], settings: ReportSettings) -> Pictures:
    pictures, box = Pictures(), view.box_um
    mpp = max(box.width, box.height) / settings.thumbnail_px
    size = max(1, round(box.width / mpp)), max(1, round(box.height / mpp))
    pictures.overview = _jpeg(_read(slide, view, (box.x, box.y), size, mpp))
    side, crop_mpp = settings.crop_px, settings.crop_um / settings.crop_px
    for one in nuclei:
        x_um, y_um = one.x_level0 * view.slide_mpp[0], one.y_level0 * view.slide_mpp[1]
        corner = x_um - settings.crop_um / 2, y_um - settings.crop_um / 2
        try:
            pictures.nuclei[one.nucleus_id] = _jpeg(_read(slide, view, corner, (side, side), crop_mpp))
        except SlideReadError as error:
            logger.warning("%s: nucleus %d: no picture: %s", slide.info.path, one.nucleus_id, error)
    return pictures


def _read(slide: Slide, view: View, corner_um: tuple[float, float], size_px: tuple[int, int], mpp: float) -> Pixels:
    mpp_x, mpp_y = view.slide_mpp
    return slide.read_region(corner_um[0] / mpp_x, corner_um[1] / mpp_y, *size_px, mpp=mpp)


def _jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()


def _folder(out: Path, slide_id: str) -> Path:
    return RunPaths(out).pictures(slide_id)
