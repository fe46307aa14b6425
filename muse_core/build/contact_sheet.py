"""One picture a slide: tissue and ROIs on its thumbnail, nuclei on a few ROIs, and the figures asked for first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from muse_core.build.job import BuildJob, BuildPlan
from muse_core.build.rois import RoiBox
from muse_core.machine.files import whole_file
from muse_core.roi_dataset.dataset import RoiDataset, RoiSample
from muse_core.slide import open_slide
from muse_core.tissue import Tissue, read_tissue

SHEET_PX = (1600, 1000)
HEADER_PX, MARGIN_PX, FOOTER_PX = 84, 20, 34
CLOSE_UPS = 4
CLOSE_UP_UM = 100.0
# Okabe and Ito's colours, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
TISSUE_COLOUR, ROI_COLOUR, NUCLEUS_COLOUR = "#009E73", "#0072B2", "#F0E442"
INK, FAINT, PAPER = "#1b1b1b", "#666666", "#ffffff"


def draw_contact_sheet(job: BuildJob, plan: BuildPlan, parts: Sequence[Path], sheet_file: Path) -> None:
    """Draw the sheet of a slide whose parts and tissue are in the dataset.

    Args:
        job: the slide.
        plan: its plan.
        parts: its parts.
        sheet_file: the JPEG to write.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    # The built-in font has no µ and no ², hence um and mm2 on the picture.
    sheet = Image.new("RGB", SHEET_PX, PAPER)
    draw = ImageDraw.Draw(sheet)
    dataset = RoiDataset(parts)
    picked = np.linspace(0, len(dataset) - 1, min(CLOSE_UPS, len(dataset))).astype(int)
    samples = [dataset.read(int(i)) for i in picked]
    counts = [count or 0 for count in dataset.table(["n_nuclei"])["n_nuclei"].to_pylist()]
    _draw_header(draw, job, plan, len(dataset), sum(counts))
    with open_slide(job.path, mpp_override=job.mpp_override, reader=plan.facts["reader"], scene=job.scene) as slide:
        side = SHEET_PX[1] - HEADER_PX - FOOTER_PX - MARGIN_PX
        overview = Image.fromarray(slide.thumbnail(side))
        tissue = read_tissue(job.tissue_file, slide.info)
    scale = overview.width / plan.facts["width_level0"]
    _draw_tissue_and_rois(overview, tissue, plan.boxes, scale, [_roi_number(sample) for sample in samples])
    sheet.paste(overview, (MARGIN_PX + (side - overview.width) // 2, HEADER_PX))
    bottom = max(HEADER_PX + overview.height, _draw_close_ups(sheet, samples, left=side + 3 * MARGIN_PX))
    draw.text((MARGIN_PX, bottom + 8), "green: tissue   blue: ROIs (filled: shown at the right)", FAINT, _font(17))
    sheet = sheet.crop((0, 0, SHEET_PX[0], bottom + FOOTER_PX + 8))
    with whole_file(sheet_file) as path:
        sheet.save(path, "JPEG", quality=88)


def _draw_header(draw: ImageDraw.ImageDraw, job: BuildJob, plan: BuildPlan, n_rois: int, n_nuclei: int) -> None:
    facts = plan.facts
    draw.text((MARGIN_PX, 12), job.slide_id[:90], INK, _font(28))
    line = (
        f"{facts['width_level0']:,} x {facts['height_level0']:,} px   {facts['mpp_x']:.4g} um/px "
        f"({facts['mpp_source']})   read by {facts['reader']}   tissue {plan.tissue_mm2:.2f} mm2   "
        f"{n_rois:,} ROIs   {n_nuclei:,} nuclei"
    )
    draw.text((MARGIN_PX, 48), line, FAINT, _font(18))


def _draw_tissue_and_rois(
    overview: Image.Image, tissue: Tissue, boxes: Sequence[RoiBox], scale: float, shown: Sequence[int]
) -> None:
    draw = ImageDraw.Draw(overview, "RGBA")
    for polygon in tissue.polygons:
        for ring in (polygon.exterior, *polygon.interiors):
            draw.line([(x * scale, y * scale) for x, y in ring.coords], fill=TISSUE_COLOUR, width=2, joint="curve")
    for number, box in enumerate(boxes):
        corners = [box.x_level0, box.y_level0, box.x_level0 + box.width_level0, box.y_level0 + box.height_level0]
        fill = (0, 114, 178, 70) if number in shown else None
        draw.rectangle([corner * scale for corner in corners], outline=ROI_COLOUR, fill=fill, width=2)


def _draw_close_ups(sheet: Image.Image, samples: Sequence[RoiSample], left: int) -> int:
    """Up to four square close-ups, two by two, each with a caption and a scale bar; the y below the last."""
    caption_px, gap = 26, MARGIN_PX
    side = min((SHEET_PX[0] - left - 2 * gap) // 2, (SHEET_PX[1] - HEADER_PX - FOOTER_PX) // 2 - caption_px)
    draw = ImageDraw.Draw(sheet)
    for number, sample in enumerate(samples):
        x, y = left + (number % 2) * (side + gap), HEADER_PX + (number // 2) * (side + caption_px + 8)
        sheet.paste(_close_up(sample, side), (x, y))
        draw.text(
            (x, y + side + 3), f"ROI {_roi_number(sample)}: {len(sample.nuclei):,} nuclei in all", FAINT, _font(17)
        )
    rows = -(-len(samples) // 2)
    return HEADER_PX + rows * (side + caption_px + 8)


def _close_up(sample: RoiSample, side: int) -> Image.Image:
    """The middle CLOSE_UP_UM of a ROI, `side` px wide, nuclei ringed, with a 20 µm bar."""
    wide = min(round(CLOSE_UP_UM / sample.mpp), *sample.image.size)
    x, y = (sample.image.size[0] - wide) // 2, (sample.image.size[1] - wide) // 2
    zoom = side / wide
    picture = Image.fromarray(sample.image.read(x, y, wide, wide)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for nucleus_x, nucleus_y in _within(sample.nuclei, x, y, wide):
        centre_x, centre_y = (nucleus_x - x) * zoom, (nucleus_y - y) * zoom
        draw.ellipse([centre_x - 5, centre_y - 5, centre_x + 5, centre_y + 5], outline=INK, width=4)
        draw.ellipse([centre_x - 4, centre_y - 4, centre_x + 4, centre_y + 4], outline=NUCLEUS_COLOUR, width=2)
    bar = 20 / sample.mpp * zoom
    draw.rectangle([10, side - 16, 10 + bar, side - 10], fill=INK)
    draw.text((10, side - 40), "20 um", INK, _font(17), stroke_width=2, stroke_fill=PAPER)
    return picture


def _within(nuclei: NDArray[np.float32], x: int, y: int, side: int) -> NDArray[np.float32]:
    inside = (nuclei[:, 0] >= x) & (nuclei[:, 0] < x + side) & (nuclei[:, 1] >= y) & (nuclei[:, 1] < y + side)
    return nuclei[inside, :2]


def _roi_number(sample: RoiSample) -> int:
    return int(sample.roi_id.rpartition("_")[2])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
