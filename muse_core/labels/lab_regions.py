"""A lab's dots as regions: windows of 0.5 µm/px cut from slides with the tissue around them, or whole images."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.geometry import Frame, frame_at
from muse_core.labels import read_rgb
from muse_core.labels.lab import LabDots, LabImage
from muse_core.labels.regions import Region
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.slide import Slide, open_slide

logger = logging.getLogger(__name__)

DOT_REACH_UM = 6.0  # ground around a dot that is known without a region: its nucleus, and a little of what is none
_WINDOW_PX = 512  # dots without a region are cut out in windows of this side, besides what surrounds them
_LEAST_DOTS_TO_JUDGE, _MOST_DOTS_TO_JUDGE = 20, 200
_GROUND_PX = 7  # side of the ground that is judged at a dot
_ADVICE = "better put a dot on every nucleus of a rectangle and give that the class Region*"
_PALER = 4.0  # standard errors by which dots must lie on paler ground than with x and y swapped, to be refused


def lab_regions(dots: LabDots, *, side_px: int) -> tuple[list[Region], list[Region]]:
    """Training and validation regions of a lab's folder.

    Of slides, each region brings `side_px` minus its own length of tissue on every side, which eq. 8 draws from.

    Args:
        dots: of `read_lab`.
        side_px: of training samples at 0.5 µm/px.

    Returns:
        What to train on, and what validates: the images that `dataset.toml` names, else every fifth of at least five
        regions, else the training regions themselves.

    Raises:
        DatasetError: pixels that cannot be read, or dots that lie where x and y are swapped.
        MppError: a slide that says no µm/px, and none was given.
    """
    regions = [
        (image.name in dots.validation, region) for image in dots.images for region in _regions_of(image, side_px)
    ]
    if not dots.validation and len(regions) >= 5:
        regions = [(index % 5 == 4, region) for index, (_, region) in enumerate(regions)]
    train = [region for held_out, region in regions if not held_out]
    validation = [region for held_out, region in regions if held_out]
    return train, validation or train


def _regions_of(image: LabImage, side_px: int) -> list[Region]:
    if not image.is_slide:
        return [_whole(image)]
    with open_slide(image.path, mpp_override=image.mpp) as slide:
        _check_order(image, lambda xy: _brightness_on_slide(slide, xy))
        areas = image.areas or _around_dots(image, slide)
        if not image.areas:
            text = "%s: no region, so what is no nucleus is known next to its dots alone; %s"
            logger.warning(text, image.path.name, _ADVICE)
        return [_window(image, slide, area, f"{image.name} {number}", side_px) for number, area in enumerate(areas, 1)]


def _whole(image: LabImage) -> Region:
    assert image.mpp is not None
    pixels = read_rgb(image.path)
    _check_order(image, lambda xy: _brightness_on_image(pixels, xy))
    annotated = _mask(image.areas, Frame(0, 0, 1, 1), pixels.shape[:2]) if image.areas else None
    whole = Region(image.name, image.case, pixels, image.mpp, annotated, image.xy.astype(np.float32), image.class_ids)
    labelled = whole.is_annotated(whole.xy)  # a dot outside all regions is none that is learned from
    return whole if annotated is None else replace(whole, xy=whole.xy[labelled], class_ids=whole.class_ids[labelled])


def _around_dots(image: LabImage, slide: Slide) -> list[shapely.Geometry]:
    """Discs around dots, those of one window of the slide together."""
    mpp = slide.info.mpp
    window_level0 = _WINDOW_PX * NETWORK_MPP / np.array([mpp.x, mpp.y])
    windows = np.floor(image.xy / window_level0).astype(int)
    groups: dict[tuple[int, ...], list[shapely.Geometry]] = {}
    for xy, window in zip(image.xy, windows, strict=True):
        groups.setdefault(tuple(window), []).append(shapely.Point(xy).buffer(DOT_REACH_UM / mpp.x))
    return [shapely.union_all(discs) for discs in groups.values()]


def _window(image: LabImage, slide: Slide, area: shapely.Geometry, name: str, side_px: int) -> Region:
    """An annotated area with the tissue around it, at 0.5 µm/px, cut off at the slide's edges."""
    mpp = (slide.info.mpp.x, slide.info.mpp.y)
    scale = np.array([NETWORK_MPP / mpp[0], NETWORK_MPP / mpp[1]])  # level-0 px a network px
    first, last = np.array(area.bounds[:2]), np.array(area.bounds[2:])
    around = np.maximum(0, side_px - (last - first) / scale) * scale
    first, last = np.maximum(0, first - around), np.minimum(image.size_px, last + around)
    width, height = np.maximum(1, np.ceil((last - first) / scale)).astype(int)
    pixels = slide.read_region(float(first[0]), float(first[1]), int(width), int(height), mpp=NETWORK_MPP)
    frame = frame_at(float(first[0]), float(first[1]), NETWORK_MPP, mpp)
    labelled = shapely.contains_xy(area, image.xy) if len(image.xy) else np.zeros(0, bool)
    xy = frame.from_level0(image.xy[labelled]).astype(np.float32)
    mask = _mask([area], frame, (int(height), int(width)))
    return Region(name, image.case, pixels, NETWORK_MPP, mask, xy, image.class_ids[labelled])


def _mask(areas: Sequence[shapely.Geometry], frame: Frame, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Areas in level-0 px as a mask (H, W) of a frame's grid: pixels whose centre lies in one."""
    mask = np.zeros(size[:2], bool)
    for area in areas:
        shape = shapely.transform(area, frame.from_level0)
        x0, y0, x1, y1 = shape.bounds
        box = slice(max(0, int(y0)), int(y1) + 1), slice(max(0, int(x0)), int(x1) + 1)
        rows, columns = np.mgrid[box[0], box[1]]
        shapely.prepare(shape)
        part = mask[box]
        part |= shapely.contains_xy(shape, columns + 0.5, rows + 0.5)[: part.shape[0], : part.shape[1]]
    return mask


def _check_order(image: LabImage, brightness: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """Refuse dots that lie on clearly paler ground than the same with x and y swapped: nuclei are dark.

    Args:
        image: with its dots.
        brightness: of the ground at points (N, 2) of the image, 0..255.

    Raises:
        DatasetError: they do.
    """
    width, height = image.size_px
    swapped = image.xy[:, ::-1]
    both = ((swapped >= 0) & (swapped < (width, height))).all(1)
    chosen = np.flatnonzero(both)
    if len(chosen) < _LEAST_DOTS_TO_JUDGE:
        return
    chosen = chosen[:: -(-len(chosen) // _MOST_DOTS_TO_JUDGE)]
    paler = brightness(image.xy[chosen]) - brightness(swapped[chosen])
    if paler.mean() > _PALER * paler.std() / np.sqrt(len(paler)):
        raise DatasetError(
            f"{image.path}: its {len(image.xy)} dots lie on paler ground than with x and y swapped; is the order of "
            "the columns y x?"
        )


def _brightness_on_image(pixels: NDArray[np.uint8], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    grey = cv2.blur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (_GROUND_PX, _GROUND_PX)).astype(np.float64)
    columns, rows = xy.astype(int).T
    return np.asarray(grey[rows, columns])


def _brightness_on_slide(slide: Slide, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    half = _GROUND_PX * NETWORK_MPP / np.array([slide.info.mpp.x, slide.info.mpp.y]) / 2  # level-0 px
    corners = (xy - half).tolist()
    grounds = [slide.read_region(x, y, _GROUND_PX, _GROUND_PX, mpp=NETWORK_MPP) for x, y in corners]
    return np.array([cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY).mean() for ground in grounds])
