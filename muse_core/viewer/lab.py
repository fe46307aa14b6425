"""A lab folder made of what people marked: what `muse finetune --dataset lab`, `--tissue` and `--regions` read.

    LAB/journal.jsonl                 every mark with who and when; all else is made from it
    LAB/labels/<slide>.geojson        labelled nuclei and the ground that is known about them
    LAB/images/<slide>.svs            a link to the slide
    LAB/held-back/labels, images      the same of labels that no training sees: models are compared on them
    LAB/regions/<slide>.geojson       areas that were drawn
    LAB/tissue/<slide>.geojson        tissue that was edited

Which labels are held back hangs on where they lie and on nothing else: a nucleus that was held back once always is.
"""

import json
import logging
import threading
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely.geometry import mapping

from muse_core.errors import OutputError
from muse_core.machine.files import output_errors, safe_name, whole_file
from muse_core.nuclei_dataset import class_colours, rgb
from muse_core.viewer.journal import Journal
from muse_core.viewer.marks import MOST_PX, AreaMark, Entry, NucleusMark, Rings, SentMark, TissueMark, in_force

logger = logging.getLogger(__name__)

HELD_BACK = "held-back"
_HELD_SHARE = 0.2
_SQUARE_UM = 64.0  # of one such square all lone nuclei are held back, or none
_WINDOW_UM = 256.0  # known ground of one such window is one region of the training: one picture is read for it
_SAME_UM = 2.0  # nearer than this two marks are of one nucleus
_LEAST_REACH_UM = 2.0
_TOML_SIGN = "# made by muse view"
_SIGN = {"muse": "made by muse view from journal.jsonl; changes here are lost"}


@dataclass(frozen=True)
class SlideFrame:
    """What writing a slide's labels needs to know of it.

    Attributes:
        path: its file; None where it is not at hand, and then no link is made.
        mpp: µm per level-0 px along x and y.
        origin_level0: the corner that QuPath counts from.
        mpp_given: whether the µm/px was given by hand, whatever the file says.
        size_level0: its width and height, level-0 px; None where they are not known.
        is_largest_picture: whether it is that of its file's pictures which learning opens; of others no labels are
            written, as they would lie on the wrong tissue. The journal keeps the marks.
    """

    path: Path | None
    mpp: tuple[float, float]
    origin_level0: tuple[float, float] = (0.0, 0.0)
    mpp_given: bool = False
    size_level0: tuple[float, float] | None = None
    is_largest_picture: bool = True


class _Known(NamedTuple):
    """Ground where all nuclei are known, and those: of one part, held back or not."""

    dots: list[tuple[float, float, str]]
    areas: list[shapely.Geometry]


class Lab:
    """The folder of one lab. Safe to use from several threads."""

    def __init__(self, folder: Path, frame_of: Callable[[str], SlideFrame]) -> None:
        """Open it; files that a killed server left behind the journal are made anew.

        Args:
            folder: made when the first mark comes.
            frame_of: tells of a slide; raises a MuseError for one that there is not.
        """
        self.folder = folder
        self.journal = Journal(folder)
        self._frame_of = frame_of
        self._lock = threading.Lock()

    def append(self, sent: Sequence[SentMark], who: str) -> list[Entry]:
        """Keep marks and write what is made of them.

        Raises:
            DatasetError: a mark is of a slide that there is not.
            OutputError: the folder cannot be written.
        """
        frames = {one.mark.slide_id: self._frame_of(one.mark.slide_id) for one in sent}
        kept = self.journal.append(sent, who)
        for slide_id, frame in frames.items():
            self._write(slide_id, frame)
        return kept

    def write_all(self, known: Iterable[str]) -> None:
        """Write the files of every slide that has marks and is known, as after a server was killed.

        Raises:
            OutputError: the folder cannot be written.
        """
        known = set(known)
        for slide_id in sorted({entry.mark.slide_id for entry in self.journal.entries()} & known):
            self._write(slide_id, self._frame_of(slide_id))

    def of_slide(self, slide_id: str) -> list[Entry]:
        """What is in force of a slide."""
        return in_force([entry for entry in self.journal.entries() if entry.mark.slide_id == slide_id])

    def counts(self) -> dict[str, dict[str, int]]:
        """Labelled nuclei by slide and class; "" counts those that are none."""
        found: dict[str, dict[str, int]] = {}
        for entry in in_force(self.journal.entries()):
            if isinstance(entry.mark, NucleusMark):
                of_slide = found.setdefault(entry.mark.slide_id, {})
                name = entry.mark.class_name or ""
                of_slide[name] = of_slide.get(name, 0) + 1
        return found

    def _write(self, slide_id: str, frame: SlideFrame) -> None:
        """All files of a slide, from what is in force."""
        with self._lock:
            marks = [entry.mark for entry in self.of_slide(slide_id)]
            nuclei = [mark for mark in marks if isinstance(mark, NucleusMark)]
            areas = [mark for mark in marks if isinstance(mark, AreaMark)]
            tissue = [mark for mark in marks if isinstance(mark, TissueMark)]
            name = f"{safe_name(slide_id)}.geojson"
            _write_areas(self.folder / "regions" / name, areas, frame)
            _write_tissue(self.folder / "tissue" / name, tissue[-1] if tissue else None)
            if not frame.is_largest_picture and (nuclei or any(area.whole for area in areas)):
                logger.warning("slide %s: a scene of its file; teaching leaves out its labels", slide_id)
                nuclei, areas = [], []
            for held, known in _known_parts(slide_id, nuclei, areas, frame).items():
                folder = self.folder / HELD_BACK if held else self.folder
                _write_labels(folder / "labels" / name, known, frame)
                if known.dots or known.areas:
                    _link(folder / "images", safe_name(slide_id), frame.path)
                    if frame.mpp_given:
                        _keep_mpp(folder / "dataset.toml", safe_name(slide_id), frame.mpp[0])


def _known_parts(
    slide_id: str, nuclei: Sequence[NucleusMark], areas: Sequence[AreaMark], frame: SlideFrame
) -> dict[bool, _Known]:
    """What training sees and what is held back."""
    parts = {held: _Known([], []) for held in (False, True)}
    width, height = frame.size_level0 or (MOST_PX, MOST_PX)
    slide = shapely.box(0, 0, width, height)
    marks = _last_of_each([mark for mark in nuclei if mark.x < width and mark.y < height], frame)
    taken = shapely.GeometryCollection()
    for area in (one for one in areas if one.whole):
        drawn = shapely.intersection(_polygon(area.rings), slide)
        polygon = _surface(shapely.difference(drawn, taken))  # areas may not overlap: the first has the ground
        if polygon.area == 0:
            continue
        taken = shapely.union(taken, polygon)
        part = parts[_is_held(slide_id, polygon.centroid.x, polygon.centroid.y, frame)]
        part.areas.append(polygon)
        part.dots.extend(_dots_in(polygon, area, marks, frame))
    lone = [mark for mark in marks if not shapely.intersects_xy(taken, mark.x, mark.y)]
    for held, part in parts.items():
        mine = [mark for mark in lone if _is_held(slide_id, mark.x, mark.y, frame) is held]
        part.dots.extend((mark.x, mark.y, mark.class_name) for mark in mine if mark.class_name is not None)
        part.areas.extend(_ground(mine, slide, taken, frame))
    return parts


def _last_of_each(nuclei: Sequence[NucleusMark], frame: SlideFrame) -> list[NucleusMark]:
    """Of marks on one nucleus the last."""
    if not nuclei:
        return []
    xy_um = np.array([(mark.x, mark.y) for mark in nuclei]) * frame.mpp
    near = cKDTree(xy_um).query_ball_point(xy_um, _SAME_UM)
    return [mark for index, mark in enumerate(nuclei) if max(near[index]) == index]


def _dots_in(
    polygon: shapely.Geometry, area: AreaMark, marks: Sequence[NucleusMark], frame: SlideFrame
) -> list[tuple[float, float, str]]:
    """The nuclei of an area labelled whole: as they were then, changed as was marked since or before."""
    mine = [mark for mark in marks if shapely.intersects_xy(polygon, mark.x, mark.y)]
    dots = [dot for dot in area.dots if shapely.intersects_xy(polygon, dot[0], dot[1])]
    if mine and dots:
        tree = cKDTree(np.array([(mark.x, mark.y) for mark in mine]) * frame.mpp)
        distances, _ = tree.query(np.array([dot[:2] for dot in dots]) * frame.mpp)
        dots = [dot for dot, distance in zip(dots, np.atleast_1d(distances), strict=True) if distance > _SAME_UM]
    return dots + [(mark.x, mark.y, mark.class_name) for mark in mine if mark.class_name is not None]


def _ground(
    marks: Sequence[NucleusMark], slide: shapely.Geometry, taken: shapely.Geometry, frame: SlideFrame
) -> list[shapely.Geometry]:
    """The ground that is known about lone nuclei: discs as far as the slide reaches, those of one window together."""
    groups: dict[tuple[int, int], list[shapely.Geometry]] = {}
    for mark in marks:
        window = int(mark.x * frame.mpp[0] / _WINDOW_UM), int(mark.y * frame.mpp[1] / _WINDOW_UM)
        reach = max(mark.reach_um, _LEAST_REACH_UM) / frame.mpp[0]
        groups.setdefault(window, []).append(shapely.Point(mark.x, mark.y).buffer(reach, quad_segs=4))
    found, before = [], taken
    for window in sorted(groups):
        discs = shapely.intersection(shapely.union_all(groups[window]), slide)
        ground = shapely.difference(discs, before)
        polygons = [part for part in shapely.get_parts(ground) if part.geom_type == "Polygon" and part.area > 0]
        if polygons:
            found.append(shapely.MultiPolygon(polygons))
            before = shapely.union(before, ground)
    return found


def _is_held(slide_id: str, x: float, y: float, frame: SlideFrame) -> bool:
    square = f"{slide_id}/{int(x * frame.mpp[0] / _SQUARE_UM)}/{int(y * frame.mpp[1] / _SQUARE_UM)}"
    return sha256(square.encode()).digest()[0] < 256 * _HELD_SHARE


def _polygon(rings: Rings) -> shapely.Geometry:
    return _surface(shapely.make_valid(shapely.Polygon(rings[0], rings[1:])))


def _surface(shape: shapely.Geometry) -> shapely.Geometry:
    """What of a shape holds area: no points, no lines."""
    return shapely.union_all([part for part in shapely.get_parts(shape) if part.area > 0])


def _write_labels(path: Path, known: _Known, frame: SlideFrame) -> None:
    colours = class_colours(sorted({name for _, _, name in known.dots}))
    features = [_feature(shapely.Point(x, y), name, colours[name], frame) for x, y, name in known.dots]
    features += [_feature(area, "Region*", "#888888", frame) for area in known.areas]
    _write_features(path, features)


def _keep_mpp(path: Path, name: str, mpp: float) -> None:
    """Say a slide's µm/px where readers of the folder look for it; a file that a person made is left alone."""
    text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    if text and not text.startswith(_TOML_SIGN):
        logger.warning("%s: made by hand; mpp_by_name of %s is to be %g in it", path, name, mpp)
        return
    known = dict(tomllib.loads(text).get("mpp_by_name", {})) | {name: mpp}
    lines = [_TOML_SIGN, "[mpp_by_name]", *(f"{json.dumps(one)} = {value!r}" for one, value in sorted(known.items()))]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_areas(path: Path, areas: Sequence[AreaMark], frame: SlideFrame) -> None:
    features = []
    for area in areas:
        feature = _feature(_polygon(area.rings), None, None, frame)
        features.append(feature | {"properties": feature["properties"] | {"name": area.name}})
    _write_features(path, features)


def _write_tissue(path: Path, tissue: TissueMark | None) -> None:
    """Tissue counts px of the full image, whatever QuPath does."""
    here = SlideFrame(None, (1.0, 1.0))
    polygons = tissue.polygons if tissue is not None else []
    _write_features(path, [_feature(_polygon(rings), "Tissue", "#00AA50", here) for rings in polygons])


def _write_features(path: Path, features: list[dict[str, Any]]) -> None:
    """Write a collection, or remove it where there is nothing to say; a file that a person made is left alone."""
    if path.exists() and not _is_ours(path):
        raise OutputError(f"{path}: not made by muse view; move it out of {path.parent} or give another --labels")
    if not features:
        with output_errors(path):
            path.unlink(missing_ok=True)
        return
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", **_SIGN, "features": features}), encoding="utf-8")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return json.dumps(_SIGN)[1:20].encode() in file.read(200)


def _feature(shape: shapely.Geometry, name: str | None, colour: str | None, frame: SlideFrame) -> dict[str, Any]:
    moved = shapely.transform(shape, lambda xy: np.round(xy - frame.origin_level0, 3))
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None and colour is not None:
        properties["classification"] = {"name": name, "color": list(rgb(colour))}
    return {"type": "Feature", "geometry": mapping(moved), "properties": properties}


def _link(folder: Path, name: str, target: Path | None) -> None:
    """A link to a slide, and to the folder that MRXS files have beside them."""
    if target is None:
        return
    link = folder / (name + target.suffix)
    with output_errors(link):
        folder.mkdir(parents=True, exist_ok=True)
        for made, meant in ((link, target), (folder / name, target.with_suffix(""))):
            if meant.exists() and (meant == target or target.suffix.lower() == ".mrxs"):
                if made.is_symlink():
                    made.unlink()
                if not made.exists():
                    made.symlink_to(meant.absolute())
