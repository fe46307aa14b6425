"""What the page shows of a slide from afar, from one pass over its nuclei and kept beside its part.

A pyramid of counts by class, histograms, and the nuclei worth asking a person about. Memory does not grow with the
number of nuclei: the grids are of at most `MOST_CELLS` cells along a side.
"""

import json
import logging
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from muse_core.errors import OutputError
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import NucleiDataset

logger = logging.getLogger(__name__)

MOST_CELLS = 1024  # along the longer side of the finest grid of counts; 2 MB a class at most
LEAST_CELL_PX = 32  # level-0 px; finer cells hold a nucleus or none
BINS = 20  # of the histograms of scores and of probabilities
_FORMAT = 1
_DOUBTFUL, _TYPICAL = 256, 96  # nuclei kept, of all classes and of each
_SURE_SCORE = 0.6  # what is less likely a nucleus at all is not asked about first
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, which spreads neighbouring ids


@dataclass(frozen=True)
class Cut:
    """What is left out: nuclei of a lower score, or whose class is less probable.

    Attributes:
        score: least score, 0..1.
        probability: least probability of the class a nucleus was given, 0..1.
    """

    score: float = 0.0
    probability: float = 0.0


class Asked(NamedTuple):
    """Nuclei that a person may be asked about, best first.

    Attributes:
        nucleus_ids: (K,) int64.
        xy_level0: (K, 2) float64 level-0 px.
        class_ids: (K,) int64.
        scores: (K,) float32.
        probabilities: (K, C) float32.
        merit: (K,) float64; the higher, the sooner it is asked.
    """

    nucleus_ids: NDArray[np.int64]
    xy_level0: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    merit: NDArray[np.float64]


@dataclass(frozen=True)
class Digest:
    """One slide from afar; arrays by class.

    Attributes:
        class_names: C names.
        cell_px: side of a cell of the finest grid, level-0 px; each further level's cells are twice as wide.
        levels: (C, rows, columns) uint32 nuclei in each cell, finest first.
        in_tissue: (C,) those in tissue.
        score_sums: (C,) sum of their scores.
        scores: (C, BINS) histogram of scores, 0..1.
        chances: (C, BINS) histogram of the probability of the class they were given.
        doubtful: nuclei between two classes.
        typical: of each class, those that the model is surest of.
    """

    class_names: tuple[str, ...]
    cell_px: int
    levels: tuple[NDArray[np.uint32], ...]
    in_tissue: NDArray[np.int64]
    score_sums: NDArray[np.float64]
    scores: NDArray[np.int64]
    chances: NDArray[np.int64]
    doubtful: Asked
    typical: tuple[Asked, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(C,) nuclei."""
        return np.asarray(self.scores.sum(axis=1), np.int64)


def read_digest(dataset: NucleiDataset, slide_id: str, size_level0: tuple[float, float]) -> Digest:
    """The digest kept beside the slide's part, or a new one, kept where the folder can be written.

    Args:
        dataset: the nuclei.
        slide_id: the slide.
        size_level0: width and height of the slide, or of where its nuclei lie, level-0 px.

    Raises:
        DatasetError: no such slide, or a file is damaged.
    """
    identity = json.dumps([_FORMAT, *part_identity(dataset, slide_id), list(size_level0)])
    path = _kept_path(dataset, slide_id)
    if path is not None and (kept := _load(path, identity)) is not None:
        return kept
    digest = make_digest(dataset, slide_id, size_level0)
    if path is not None:
        try:
            _keep(digest, path, identity)
        except OutputError as error:  # a run that may only be read is made anew each time it is opened
            logger.info("%s: not kept: %s", slide_id, error)
    return digest


def part_identity(dataset: NucleiDataset, slide_id: str) -> list[int]:
    """Numbers that change when the slide's nuclei do: size and time of change of each of its parts."""
    infos = (part.filesystem.get_file_info(part.path) for part in dataset.parts(slide_id))
    return [number for info in infos for number in (info.size or 0, info.mtime_ns or 0)]


def make_digest(dataset: NucleiDataset, slide_id: str, size_level0: tuple[float, float]) -> Digest:
    """Go through a slide's nuclei once; arguments and errors as for `read_digest`."""
    names = dataset.part(slide_id).class_names
    cell_px = cell_side(size_level0)
    finest = _empty_grid(len(names), size_level0, cell_px)
    sums = np.zeros(len(names))
    in_tissue = np.zeros(len(names), np.int64)
    scores, chances = np.zeros((len(names), BINS), np.int64), np.zeros((len(names), BINS), np.int64)
    pools = [_Pool(len(names), _DOUBTFUL), *(_Pool(len(names), _TYPICAL) for _ in names)]
    for batch in _batches(dataset, slide_id, names):
        _add_counts(finest, batch, cell_px)
        in_tissue += np.bincount(batch.class_ids[batch.in_tissue], minlength=len(names))
        sums += np.bincount(batch.class_ids, batch.scores, minlength=len(names))
        for histogram, values in ((scores, batch.scores), (chances, batch.own_chance)):
            bins = np.clip((values * BINS).astype(int), 0, BINS - 1)
            histogram += np.bincount(batch.class_ids * BINS + bins, minlength=histogram.size).reshape(histogram.shape)
        sureness = batch.sureness()
        pools[0].offer(batch, batch.scores * (batch.scores >= _SURE_SCORE) - sureness, slice(None))
        for class_id, pool in enumerate(pools[1:]):
            pool.offer(batch, sureness, batch.class_ids == class_id)
    levels = tuple(_levels(finest))
    doubtful, *typical = (pool.kept for pool in pools)
    return Digest(names, cell_px, levels, in_tissue, sums, scores, chances, doubtful, tuple(typical))


def count_cut(
    dataset: NucleiDataset, slide_id: str, size_level0: tuple[float, float], cut: Cut
) -> tuple[NDArray[np.uint32], ...]:
    """The digest's pyramid of the nuclei that a cut leaves; arguments and errors as for `read_digest`."""
    names = dataset.part(slide_id).class_names
    cell_px = cell_side(size_level0)
    finest = _empty_grid(len(names), size_level0, cell_px)
    for batch in _batches(dataset, slide_id, names):
        _add_counts(finest, batch, cell_px, (batch.scores >= cut.score) & (batch.own_chance >= cut.probability))
    return tuple(_levels(finest))


def cell_side(size_level0: tuple[float, float]) -> int:
    """Side of the finest cells in level-0 px: the least power of two times 32 with at most MOST_CELLS along a side."""
    cell = LEAST_CELL_PX
    while max(size_level0) > cell * MOST_CELLS:
        cell *= 2
    return cell


class _Batch:
    """Some nuclei as arrays."""

    def __init__(self, table: pa.Table, n_classes: int) -> None:
        columns = [column.to_numpy() for column in table.columns]
        self.ids, x, y, class_ids, self.scores, self.in_tissue = columns[:6]
        self.xy = np.stack([x, y], axis=1)
        self.class_ids = class_ids.astype(np.int64)
        self.chances = np.stack(columns[6:], axis=1) if columns[6:] else np.ones((len(x), n_classes), np.float32)
        self.own_chance = self.chances[np.arange(len(x)), self.class_ids]

    def sureness(self) -> NDArray[np.float64]:
        """Who is a nucleus for certain, and of one class rather than of the next, to two digits.

        By a hash of the id within: else the first would all lie where the curve begins.
        """
        best = np.sort(np.pad(self.chances, ((0, 0), (1, 0))), axis=1)[:, -2:]
        sure = np.round(self.scores.astype(np.float64) * (best[:, 1] - best[:, 0]), 2)
        return np.asarray(sure + 0.01 * (self.ids.astype(np.uint64) * _HASH).astype(np.float64) / 2.0**64)


class _Pool:
    """The best nuclei of a kind so far."""

    def __init__(self, n_classes: int, size: int) -> None:
        self._size = size
        self.kept = Asked(
            np.zeros(0, np.int64),
            np.zeros((0, 2)),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros((0, n_classes), np.float32),
            np.zeros(0),
        )

    def offer(self, batch: _Batch, merit: NDArray[np.float64], mask: NDArray[np.bool_] | slice) -> None:
        """Take the best of a batch."""
        columns = (batch.ids, batch.xy, batch.class_ids, batch.scores, batch.chances, merit)
        joined = [np.concatenate([old, new[mask]]) for old, new in zip(self.kept, columns, strict=True)]
        best = np.argsort(-joined[-1], kind="stable")[: self._size]
        self.kept = Asked(*(column[best] for column in joined))


def _batches(dataset: NucleiDataset, slide_id: str, names: tuple[str, ...]) -> Iterator[_Batch]:
    columns = dataset.part(slide_id).columns
    wanted = ["nucleus_id", "x_level0", "y_level0", "class_id", "score", "in_tissue"]
    wanted += [f"p_{name}" for name in names if f"p_{name}" in columns]
    for table in dataset.tables(slide_id, wanted):
        yield _Batch(table, len(names))


def _empty_grid(n_classes: int, size_level0: tuple[float, float], cell_px: int) -> NDArray[np.uint32]:
    columns, rows = (max(1, int(np.ceil(side / cell_px))) for side in size_level0)
    return np.zeros((n_classes, rows, columns), np.uint32)


def _add_counts(
    grid: NDArray[np.uint32], batch: _Batch, cell_px: int, kept: NDArray[np.bool_] | slice = slice(None)
) -> None:
    _, rows, columns = grid.shape
    column, row = np.clip((batch.xy[kept] / cell_px).astype(np.int64), 0, (columns - 1, rows - 1)).T
    places = (batch.class_ids[kept] * rows + row) * columns + column
    found, counts = np.unique(places, return_counts=True)
    grid.ravel()[found] += counts.astype(np.uint32)


def _levels(finest: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """The grid and coarser ones, each of half the cells along a side, down to 64."""
    yield finest
    while max(finest.shape[1:]) > 64:
        even = np.pad(finest, ((0, 0), (0, finest.shape[1] % 2), (0, finest.shape[2] % 2)))
        n_classes, rows, columns = even.shape
        # (C, rows, columns) -> (C, rows / 2, 2, columns / 2, 2) -> (C, rows / 2, columns / 2)
        finest = even.reshape(n_classes, rows // 2, 2, columns // 2, 2).sum(axis=(2, 4), dtype=np.uint32)
        yield finest


def _kept_path(dataset: NucleiDataset, slide_id: str) -> Path | None:
    """Beside the part, where that is a folder of this machine; engines pass over names that begin with `_`."""
    folder = Path(dataset.part(slide_id).path).parent
    return folder / "_digest.npz" if folder.is_dir() else None


def _keep(digest: Digest, path: Path, identity: str) -> None:
    arrays: dict[str, Any] = {f"level{number}": level for number, level in enumerate(digest.levels)}
    arrays |= {name: getattr(digest, name) for name in ("in_tissue", "score_sums", "scores", "chances")}
    for number, asked in enumerate((digest.doubtful, *digest.typical)):
        arrays |= {f"asked{number}_{name}": column for name, column in asked._asdict().items()}
    about = json.dumps({"identity": identity, "class_names": digest.class_names, "cell_px": digest.cell_px})
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=np.array(about), **arrays)


def _load(path: Path, identity: str) -> Digest | None:
    """What is kept, if it is whole and of these nuclei."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["identity"] != identity:
                return None
            names = tuple(about["class_names"])
            count = sum(name.startswith("level") for name in file.files)
            asked = [
                Asked(*(file[f"asked{number}_{field}"] for field in Asked._fields)) for number in range(len(names) + 1)
            ]
            return Digest(
                names,
                int(about["cell_px"]),
                tuple(file[f"level{number}"] for number in range(count)),
                in_tissue=file["in_tissue"],
                score_sums=file["score_sums"],
                scores=file["scores"],
                chances=file["chances"],
                doubtful=asked[0],
                typical=tuple(asked[1:]),
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.info("%s: made anew: %s", path, error)
        return None
