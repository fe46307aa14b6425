"""A lab's own dots, on images or slides, as one folder.

    DIR/images/NAME.png (.jpg), or a slide: NAME.svs, .tif, ...
    DIR/labels/NAME.geojson   QuPath: points, or outlines of nuclei, with their class; regions have the class Region*,
                              ground of which nothing is known Ignore* (or another that ends in `*`)
               NAME.csv       columns x, y, class
               *.json         COCO: key points, or boxes, for any number of images
    DIR/dataset.toml          optional: mpp = 0.5 (of images; of slides that don't say it), classes = ["a", "b"],
                              val = ["NAME"], mpp_by_name = { "NAME" = 0.25 } (whatever the file says),
                              case_by_name = { "NAME" = "patient 7" }

Coordinates are px of the image, of a slide's level 0: x right, y down, the centre of the top-left pixel at (0.5, 0.5).
Within a region every nucleus is labelled. An image without regions is one region; of a slide without regions, only the
ground around each dot is known.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from pydantic import Field

from muse_core.config import Settings, load_settings
from muse_core.errors import ConfigError, DatasetError, MppError, figure
from muse_core.images.decode import size_px
from muse_core.labels.lab_files import AnnotatedArea, Dot, DotFile, read_dot_file
from muse_core.machine.files import normal_form
from muse_core.slide import open_slide

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})  # everything else is opened as a slide
_LABEL_SUFFIXES = frozenset({".csv", ".geojson", ".json"})
# Of an outline: 44 µm across. Nuclei have 20 to 200 µm², giant cells' and megakaryocytes' up to about 1000.
LARGEST_NUCLEUS_UM2 = 1500.0
_LEAST_OVERLAP_PX2 = 1.0  # of regions; less is two hands drawing one edge


class LabSettings(Settings):
    """What `dataset.toml` may say."""

    mpp: float | None = Field(None, gt=0)  # µm/px of plain images, and of slides that don't say it
    classes: tuple[str, ...] = ()  # all there may be, in the order of the model's; empty: those found, by name
    val: tuple[str, ...] = ()  # names of the images kept for validation
    case_by_name: dict[str, str] = Field({})  # whose tissue an image is, where several are one patient's
    mpp_by_name: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}
    )  # µm/px of single images and slides, whatever they say


@dataclass(frozen=True)
class LabImage:
    """One image or slide with its dots.

    Attributes:
        name: without ending.
        path: of the file.
        is_slide: whether it is read as a slide.
        size_px: width and height, of a slide's level 0.
        mpp: µm/px; None of a slide that says it itself.
        xy: (N, 2) float64 px.
        class_ids: (N,) int64.
        areas: polygons in which every nucleus is labelled; none: see the module's text.
        case: whose tissue it is; its name where nobody says.
    """

    name: str
    path: Path
    is_slide: bool
    size_px: tuple[int, int]
    mpp: float | None
    xy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    areas: tuple[shapely.Polygon | shapely.MultiPolygon, ...]
    case: str


@dataclass(frozen=True)
class LabDots:
    """All of a lab's folder.

    Attributes:
        class_names: what the ids mean.
        images: with at least one dot or region.
        validation: names of the images kept for validation.
    """

    class_names: tuple[str, ...]
    images: tuple[LabImage, ...]
    validation: frozenset[str]


def read_lab(root: Path, *, mpp: float | None = None, class_names: Sequence[str] = ()) -> LabDots:
    """Read and check a folder; pixels are not decoded yet.

    Args:
        root: the folder.
        mpp: µm/px of plain images, and of slides that don't say it, whatever `dataset.toml` says.
        class_names: classes that a model knows, whether any dot is of them or not: they come first, those that only
            the labels have after them; none for what the folder says.

    Raises:
        DatasetError: a file is missing or cannot be read, or a dot, class or region makes no sense; the text names the
            row.
        ConfigError: `dataset.toml` is not what it should be.
    """
    settings = load_settings(LabSettings, root / "dataset.toml" if (root / "dataset.toml").exists() else None)
    own_mpp = {normal_form(name): value for name, value in settings.mpp_by_name.items()}
    opened = [
        _opened(file, root, mpp or settings.mpp, own_mpp=own_mpp.get(file.image_name))
        for file in _dot_files(root)
        if file.dots or file.areas
    ]
    labelled = [(_nuclei_alone(file, ground), ground) for file, ground in opened]
    found = _class_names([file for file, _ in labelled], settings.classes, root)
    names = tuple(dict.fromkeys([*class_names, *found]))
    cases = {normal_form(name): case for name, case in settings.case_by_name.items()}
    images = tuple(_checked(file, ground, names, cases) for file, ground in labelled if file.dots or file.areas)
    if not any(len(image.xy) for image in images):
        raise DatasetError(f"{root / 'labels'}: no dot in any file; label some nuclei")
    validation = frozenset(map(normal_form, settings.val))
    unknown = sorted(validation - {image.name for image in images})
    if unknown:
        raise ConfigError(f"{root / 'dataset.toml'}: val names {unknown[0]!r}, which has no labels")
    return LabDots(names, images, validation)


def _dot_files(root: Path) -> list[DotFile]:
    folder = root / "labels"
    # Names that start with a dot are no labels: macOS puts a `._` beside each file on foreign disks.
    paths = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in _LABEL_SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder}: no .geojson, .csv or .json in it; labels and images lie in folders so named")
    files = [file for path in paths for file in read_dot_file(path)]
    doubled = [name for name, count in Counter(file.image_name for file in files).items() if count > 1]
    if doubled:
        raise DatasetError(f"{folder}: {doubled[0]!r} has labels in two files; keep one")
    return files


def _class_names(files: Sequence[DotFile], declared: Sequence[str], root: Path) -> tuple[str, ...]:
    found = Counter(dot.class_name for file in files for dot in file.dots)
    if not declared:
        _check_spelling(files, root)
        return tuple(sorted(found))
    for file in files:
        for dot in file.dots:
            if dot.class_name not in declared:
                raise DatasetError(
                    f"{dot.row}: class {dot.class_name!r} is unknown; {root / 'dataset.toml'} has {', '.join(declared)}"
                )
    for name in declared:
        if not found[name]:
            raise DatasetError(f"{root / 'dataset.toml'}: class {name!r} has no dot; label some or take it out")
    return tuple(declared)


def _check_spelling(files: Sequence[DotFile], root: Path) -> None:
    """Refuse classes that differ in case alone: nobody means two classes by them."""
    spelt: dict[str, Dot] = {}
    for file in files:
        for dot in file.dots:
            first = spelt.setdefault(dot.class_name.lower(), dot)
            if first.class_name != dot.class_name:
                raise DatasetError(
                    f"{dot.row}: class {dot.class_name!r}, but {first.class_name!r} in {first.row}; write them alike, "
                    f"or list both as classes in {root / 'dataset.toml'}"
                )


@dataclass(frozen=True)
class _Ground:
    """The image that labels lie on: where, how large, where its labels count from, its µm/px and whether it says so."""

    path: Path
    is_slide: bool
    size_px: tuple[int, int]
    origin: tuple[float, float]
    mpp: tuple[float, float]
    needs_mpp: bool


def _opened(file: DotFile, root: Path, mpp: float | None, *, own_mpp: float | None = None) -> tuple[DotFile, _Ground]:
    """Labels with the image that they lie on."""
    path = _image_path(root / "images", file.image_name)
    mpp = own_mpp or mpp
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        size, bounds, found, needs_mpp = _opened_slide(path, mpp, root, whatever_it_says=own_mpp is not None)
        origin = bounds if file.from_bounds else (0.0, 0.0)
        return file, _Ground(path, True, size, origin, found, needs_mpp)
    if mpp is None:
        raise _no_mpp(path, root)
    return file, _Ground(path, False, size_px(path), (0.0, 0.0), (mpp, mpp), True)


def _nuclei_alone(file: DotFile, ground: _Ground) -> DotFile:
    """The file without outlines that are too large for a nucleus, and without dots on ground to be ignored."""
    um2 = ground.mpp[0] * ground.mpp[1]
    areas = [dot for dot in file.dots if dot.px2 * um2 > LARGEST_NUCLEUS_UM2]
    if areas:
        logger.warning(
            "%s: %d of %d outlines are no nuclei but areas (this one of %s, %.0f um2; a nucleus has at most %.0f) and "
            "are left out; areas in which every nucleus is labelled have the class Region*",
            areas[0].row,
            len(areas),
            sum(dot.px2 > 0 for dot in file.dots),
            areas[0].class_name,
            areas[0].px2 * um2,
            LARGEST_NUCLEUS_UM2,
        )
    ignored = shapely.union_all([one.polygon for one in file.ignored])
    dots = [
        dot
        for dot in file.dots
        if dot.px2 * um2 <= LARGEST_NUCLEUS_UM2 and not shapely.intersects_xy(ignored, dot.x, dot.y)
    ]
    return replace(file, dots=tuple(dots))


def _checked(file: DotFile, ground: _Ground, class_names: tuple[str, ...], cases: Mapping[str, str]) -> LabImage:
    x, y = ground.origin
    dots = [replace(dot, x=dot.x + x, y=dot.y + y) for dot in file.dots]
    areas = [replace(one, polygon=shapely.affinity.translate(one.polygon, x, y)) for one in file.areas]
    _check_inside(dots, areas, ground.size_px, ground.path)
    _check_overlaps(areas)
    _tell_of_unused(dots, areas, ground.path)
    ignored = shapely.affinity.translate(shapely.union_all([one.polygon for one in file.ignored]), x, y)
    known = [one.polygon for one in areas]
    if not known and not ground.is_slide and not ignored.is_empty:
        known = [shapely.box(0, 0, *ground.size_px)]
    return LabImage(
        file.image_name,
        ground.path,
        ground.is_slide,
        ground.size_px,
        ground.mpp[0] if ground.needs_mpp else None,
        np.array([(dot.x, dot.y) for dot in dots], np.float64).reshape(-1, 2),
        np.array([class_names.index(dot.class_name) for dot in dots], np.int64),
        tuple(kept for area in known if (kept := shapely.difference(area, ignored)).area > 0),
        cases.get(file.image_name, file.image_name),
    )


def _image_path(folder: Path, name: str) -> Path:
    found = sorted(path for path in folder.glob("[!.]*") if path.is_file() and name in _names_of(path))
    if len(found) != 1:
        has = f"{len(found)} files" if found else "no file"
        raise DatasetError(f"{folder}: {has} named {name}.*; the labels of {name} need exactly one")
    return found[0]


def _names_of(path: Path) -> set[str]:
    """What labels of an image are called: QuPath leaves `.ome.tif` out whole, people leave all of the name in."""
    name, stem = normal_form(path.name), normal_form(path.stem)
    return {name, stem, stem.removesuffix(".ome")}


def _opened_slide(
    path: Path, mpp: float | None, root: Path, *, whatever_it_says: bool
) -> tuple[tuple[int, int], tuple[float, float], tuple[float, float], bool]:
    """A slide's size in px, the corner of the scanner's bounds, where it names any, µm/px, whether it needs them."""
    try:
        slide, needs_mpp = open_slide(path, mpp_override=mpp if whatever_it_says else None), whatever_it_says
    except MppError:
        if mpp is None:
            raise _no_mpp(path, root) from None
        slide, needs_mpp = open_slide(path, mpp_override=mpp), True
    with slide:
        bounds, level0 = slide.info.bounds_level0, slide.info.levels[0]
        corner = (float(bounds.x), float(bounds.y)) if bounds else (0.0, 0.0)
        return (level0.width, level0.height), corner, (slide.info.mpp.x, slide.info.mpp.y), needs_mpp


def _no_mpp(path: Path, root: Path) -> DatasetError:
    return DatasetError(f"{path}: doesn't say its um/px; write mpp = 0.5, or what it is, to {root}/dataset.toml")


def _check_inside(dots: Sequence[Dot], areas: Sequence[AnnotatedArea], size: tuple[int, int], path: Path) -> None:
    width, height = size
    outside = [dot for dot in dots if not (0 <= dot.x < width and 0 <= dot.y < height)]
    if outside:
        dot = outside[0]
        swapped = all(0 <= one.y < width and 0 <= one.x < height for one in dots)
        hint = "; with x and y swapped all dots are inside: is the order of the columns y x?" if swapped else ""
        raise DatasetError(
            f"{dot.row}: dot ({figure(dot.x)}, {figure(dot.y)}) outside the {width}x{height} px of {path.name}{hint}"
        )
    image = shapely.box(0, 0, width, height)
    for area in areas:
        if not area.polygon.intersects(image) or area.polygon.difference(image).area > 0.01 * area.polygon.area:
            bounds = ", ".join(figure(bound) for bound in area.polygon.bounds)
            raise DatasetError(f"{area.row}: region ({bounds}) reaches outside the {width}x{height} px of {path.name}")


def _check_overlaps(areas: Sequence[AnnotatedArea]) -> None:
    for index, first in enumerate(areas):
        for second in areas[index + 1 :]:
            shared = first.polygon.intersection(second.polygon).area
            if shared > _LEAST_OVERLAP_PX2:
                raise DatasetError(
                    f"{second.row}: region overlaps that of {first.row} by {figure(shared, 0)} px²; cut or merge them"
                )


def _tell_of_unused(dots: Sequence[Dot], areas: Sequence[AnnotatedArea], path: Path) -> None:
    """Where regions say what is known, dots outside them are left out; that should not go unseen."""
    union = shapely.union_all([area.polygon for area in areas])
    outside = [dot for dot in dots if areas and not shapely.intersects_xy(union, dot.x, dot.y)]
    if outside:
        logger.warning(
            "%s: %d of %d dots of %s lie in no region and are left out",
            outside[0].row,
            len(outside),
            len(dots),
            path.name,
        )
