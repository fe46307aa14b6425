"""A picture of what a representation finds alike: a few nuclei, and beside each its nearest training nuclei."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from muse_core.evaluate.representation.encoders import SEED
from muse_core.evaluate.representation.knn import nearest
from muse_core.evaluate.representation.protocols import ScoredFeatures
from muse_core.evaluate.representation.tiles import cut_tiles
from muse_core.machine.files import whole_file

CROP_UM = 32.0
_CROP_PX, _GAP_PX, _MARGIN_PX, _HEADER_PX, _CAPTION_PX = 120, 10, 20, 74, 40
_FRAME_PX = 4
# Okabe and Ito's green and vermilion, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
SAME_CLASS, OTHER_CLASS = "#009E73", "#D55E00"
INK, FAINT, PAPER = "#1b1b1b", "#666666", "#ffffff"

_Crop = NDArray[np.uint8]  # (S, S, 3) RGB


def draw_neighbours(scored: ScoredFeatures, path: Path, *, rows_per_class: int = 2, columns: int = 8) -> None:
    """Draw random nuclei of every class of the scored split, each with the most similar nuclei of the train split.

    A row's first crop is the nucleus asked about; the others are framed green where they are of its class, red where
    they are not. Each crop has the nucleus in its middle and shows what the encoder got: white beyond the tile,
    mirrored beyond the patch.

    Args:
        scored: of `read_features`.
        path: the PNG to write.
        rows_per_class: nuclei asked about, of each class that the split holds.
        columns: neighbours of each.

    Raises:
        OutputError: the file cannot be written.
    """
    request = scored.request
    asked, bank = scored.splits[request.split], scored.splits["train"]
    rows = chosen_nuclei(scored, rows_per_class)
    neighbours = nearest(bank.features, asked.features[rows], min(columns, len(bank.features)))
    query_crops = _crops(scored, request.split, rows.tolist())
    bank_crops = _crops(scored, "train", sorted(set(neighbours.index.flatten().tolist())))
    step, count = _CROP_PX + _GAP_PX, neighbours.index.shape[1]
    width = 2 * _MARGIN_PX + (count + 1) * step + 2 * _GAP_PX
    sheet = Image.new("RGB", (max(width, 780), _HEADER_PX + len(rows) * (step + _CAPTION_PX) + _MARGIN_PX), PAPER)
    _draw_header(sheet, scored)
    for number, row in enumerate(rows.tolist()):
        y, class_id = _HEADER_PX + number * (step + _CAPTION_PX), int(asked.class_ids[row])
        _draw_crop(sheet, query_crops[row], (_MARGIN_PX, y), INK, [scored.class_names[class_id], "asked about"])
        found = zip(neighbours.index[number].tolist(), neighbours.similarity[number].tolist(), strict=True)
        for column, (index, similarity) in enumerate(found, start=1):
            other = int(bank.class_ids[index])
            captions = [scored.class_names[other], f"{similarity:.3f}"]
            place = (_MARGIN_PX + column * step + 2 * _GAP_PX, y)
            _draw_crop(sheet, bank_crops[index], place, SAME_CLASS if other == class_id else OTHER_CLASS, captions)
    with whole_file(path) as temporary:
        sheet.save(temporary, "PNG")


def chosen_nuclei(scored: ScoredFeatures, rows_per_class: int) -> torch.Tensor:
    """(R,) int64 places in the scored split: for each class a few at random, whole crops first; always the same."""
    asked, request = scored.splits[scored.request.split], scored.request
    half = _crop_side_px(scored) / 2
    cut = np.asarray(((asked.xy < half) | (asked.xy > request.fov_px - half)).any(axis=1), np.bool_)
    by_chance = np.random.default_rng(SEED).permutation(len(cut))
    order = by_chance[np.argsort(cut[by_chance], kind="stable")]
    class_ids = asked.class_ids.numpy()
    found = [order[class_ids[order] == class_id][:rows_per_class] for class_id in range(len(scored.class_names))]
    return torch.from_numpy(np.concatenate(found))


def _crop_side_px(scored: ScoredFeatures) -> int:
    return 2 * round(CROP_UM / scored.request.mpp / 2)


def _crops(scored: ScoredFeatures, split: str, nuclei: Iterable[int]) -> dict[int, _Crop]:
    """The surroundings of some nuclei of a split, by their place in it."""
    features, request, side = scored.splits[split], scored.request, _crop_side_px(scored)
    wanted: dict[int, list[int]] = {}
    for nucleus in nuclei:
        wanted.setdefault(int(features.tile_index[nucleus]), []).append(nucleus)
    crops = {}
    for number, tile in enumerate(cut_tiles(request.patches(split), request.tiles)):
        for nucleus in wanted.pop(number, ()):
            crops[nucleus] = _crop(tile.image, features.xy[nucleus], side)
        if not wanted:
            break
    return crops


def _crop(image: _Crop, xy: NDArray[np.float32], side: int) -> _Crop:
    """A square of `side` px with continuous point `xy` in its middle, white beyond the image."""
    shift = side / 2 - xy.astype(np.float64)
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    # warpAffine counts from pixel centres on both sides, so that the half pixels cancel.
    found = cv2.warpAffine(image, move, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255))
    return np.asarray(found, np.uint8)


def _draw_header(sheet: Image.Image, scored: ScoredFeatures) -> None:
    draw, request = ImageDraw.Draw(sheet), scored.request
    title = f"Nuclei of {request.dataset} {request.split} and what {request.checkpoint or 'the encoder'} finds alike"
    draw.text((_MARGIN_PX, 14), title[:110], INK, _font(20))
    x = float(_MARGIN_PX)
    for text, colour in (
        (f"nearest nuclei of train by cosine, {CROP_UM:g} um wide; framed green:", FAINT),
        ("same class,", SAME_CLASS),
        ("red:", FAINT),
        ("another class.", OTHER_CLASS),
        ("White: beyond the tile.", FAINT),
    ):
        draw.text((x, 44), text, colour, _font(15))
        x += draw.textlength(text, _font(15)) + 6


def _draw_crop(sheet: Image.Image, crop: _Crop, place: tuple[int, int], frame: str, captions: list[str]) -> None:
    """One crop with its frame, ticks that point at its middle, and two lines below."""
    draw, (x, y), edge = ImageDraw.Draw(sheet), place, _CROP_PX - 1
    sheet.paste(Image.fromarray(crop).resize((_CROP_PX, _CROP_PX), Image.Resampling.BICUBIC), place)
    draw.rectangle([x, y, x + edge, y + edge], outline=frame, width=_FRAME_PX)
    middle, tick = _CROP_PX // 2, _FRAME_PX + 8
    for start, end in (
        ((middle, 0), (middle, tick)),
        ((middle, edge - tick), (middle, edge)),
        ((0, middle), (tick, middle)),
        ((edge - tick, middle), (edge, middle)),
    ):
        draw.line([x + start[0], y + start[1], x + end[0], y + end[1]], fill=frame, width=2)
    for line, (text, size, colour) in enumerate(zip(captions, (14, 13), (INK, FAINT), strict=True)):
        draw.text((x, y + _CROP_PX + 3 + 17 * line), text[:18], colour, _font(size))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # it has no µ, hence um
