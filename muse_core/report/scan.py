"""One pass over a slide's nuclei: counts, histograms, maps, and the nuclei worth a picture. Memory does not grow."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.settings import ReportSettings
from muse_core.report.view import View

BINS = 20
_CHOICE = 4  # candidates a picture, among which those shown are spread over the slide
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, which spreads neighbouring ids


@dataclass(frozen=True)
class Candidate:
    """A nucleus worth a picture.

    Attributes:
        nucleus_id: its id.
        x_level0, y_level0: where it is, level-0 px.
        class_id: its class.
        score: 0..1.
        chances: probability of each class.
    """

    nucleus_id: int
    x_level0: float
    y_level0: float
    class_id: int
    score: float
    chances: tuple[float, ...]


@dataclass
class SlideScan:
    """What one pass over a slide tells; arrays by class.

    Attributes:
        counts: (C,) nuclei.
        in_tissue: (C,) those in tissue.
        score_sums: (C,) sum of their scores.
        scores: (C, BINS) histogram of scores, 0..1.
        chances: (C, BINS) histogram of the probability of the class they were given.
        grid: (C, rows, columns) nuclei in tissue in each cell of the map.
        typical: nuclei of each class that the model is surest of.
        doubtful: nuclei that it is least sure of.
    """

    counts: NDArray[np.int64]
    in_tissue: NDArray[np.int64]
    score_sums: NDArray[np.float64]
    scores: NDArray[np.int64]
    chances: NDArray[np.int64]
    grid: NDArray[np.float32]
    typical: list[list[Candidate]] = field(default_factory=list)
    doubtful: list[Candidate] = field(default_factory=list)


def scan_slide(dataset: NucleiDataset, slide_id: str, view: View, settings: ReportSettings) -> SlideScan:
    """Go through a slide's nuclei once.

    Raises:
        DatasetError: no such slide, or a file is damaged.
    """
    names = dataset.part(slide_id).class_names
    rows, columns = grid_shape(view.box_um, settings)
    per_class = np.zeros(len(names), np.int64)
    histogram = np.zeros((len(names), BINS), np.int64)
    grid = np.zeros((len(names), rows, columns), np.float32)
    scan = SlideScan(per_class, per_class.copy(), np.zeros(len(names)), histogram, histogram.copy(), grid)
    pools = [*(_Pool(settings.typical) for _ in names), _Pool(settings.doubtful)]
    wanted = ["nucleus_id", "x_level0", "y_level0", "class_id", "score", "in_tissue", *(f"p_{name}" for name in names)]
    for table in dataset.tables(slide_id, wanted):
        batch = _Batch(table, len(names))
        _count(scan, batch, view.box_um, view.slide_mpp)
        for class_id in range(len(names)):
            pools[class_id].offer(batch, batch.surest, batch.class_ids == class_id)
        pools[-1].offer(batch, -batch.surest, np.ones(len(batch.ids), bool))
    scan.typical = [pool.spread() for pool in pools[:-1]]
    scan.doubtful = pools[-1].spread()
    return scan


def grid_shape(box_um: Box, settings: ReportSettings) -> tuple[int, int]:
    """Rows and columns of a map."""
    cell = max(settings.map_cell_um, max(box_um.width, box_um.height) / settings.max_map_cells)
    return max(1, round(box_um.height / cell)), max(1, round(box_um.width / cell))


class _Batch:
    """Columns of some nuclei as arrays."""

    def __init__(self, table: pa.Table, n_classes: int) -> None:
        columns = [column.to_numpy() for column in table.columns]
        self.ids, x, y, class_ids, self.scores, self.in_tissue = columns[:6]
        self.xy = np.stack([x, y], axis=1)
        self.class_ids = class_ids.astype(np.int64)
        self.chances = np.stack(columns[6:], axis=1)  # C times (N,) -> (N, C)
        self.own_chance = self.chances[np.arange(len(self.ids)), self.class_ids]
        best = np.sort(np.pad(self.chances, ((0, 0), (1, 0))), axis=1)[:, -2:]
        # Sure is who is a nucleus for certain, and of one class rather than of the next. To two digits, and by a hash
        # of the id within: else the surest would all lie where the curve begins.
        sure = np.round(self.scores * (best[:, 1] - best[:, 0]), 2)
        self.surest = sure + 0.01 * (self.ids.astype(np.uint64) * _HASH).astype(np.float64) / 2.0**64


class _Pool:
    """The best candidates of a kind so far."""

    def __init__(self, pictures: int) -> None:
        self._pictures, self._size = pictures, _CHOICE * pictures
        self._kept: list[tuple[float, Candidate]] = []

    def offer(self, batch: _Batch, merit: NDArray[np.float64], mask: NDArray[np.bool_]) -> None:
        """Take the best of a batch."""
        places = np.flatnonzero(mask)
        best = places[np.argsort(-merit[places], kind="stable")[: self._size]]
        found = [(float(merit[place]), _candidate(batch, int(place))) for place in best]
        self._kept = sorted([*self._kept, *found], key=lambda pair: (-pair[0], pair[1].nucleus_id))[: self._size]

    def spread(self) -> list[Candidate]:
        """The best one, and others each as far as can be from those before."""
        kept = [candidate for _, candidate in self._kept]
        if not kept:
            return []
        xy = np.array([(one.x_level0, one.y_level0) for one in kept])
        chosen, distance = [0], np.full(len(kept), np.inf)
        while len(chosen) < min(self._pictures, len(kept)):
            distance = np.minimum(distance, np.hypot(*(xy - xy[chosen[-1]]).T))
            distance[chosen] = -1
            chosen.append(int(distance.argmax()))
        return [kept[place] for place in sorted(chosen)]


def _candidate(batch: _Batch, place: int) -> Candidate:
    x, y = batch.xy[place].tolist()
    chances = tuple(float(chance) for chance in batch.chances[place])
    return Candidate(int(batch.ids[place]), x, y, int(batch.class_ids[place]), float(batch.scores[place]), chances)


def _count(scan: SlideScan, batch: _Batch, box_um: Box, slide_mpp: tuple[float, float]) -> None:
    n_classes, rows, columns = scan.grid.shape
    ids = batch.class_ids
    scan.counts += np.bincount(ids, minlength=n_classes)
    scan.in_tissue += np.bincount(ids[batch.in_tissue], minlength=n_classes)
    scan.score_sums += np.bincount(ids, batch.scores, minlength=n_classes)
    for histogram, values in ((scan.scores, batch.scores), (scan.chances, batch.own_chance)):
        bins = np.clip((values * BINS).astype(int), 0, BINS - 1)
        np.add.at(histogram, (ids, bins), 1)
    cells = (batch.xy * slide_mpp - (box_um.x, box_um.y)) / (box_um.width / columns, box_um.height / rows)
    column, row = np.clip(cells.astype(int), 0, (columns - 1, rows - 1)).T
    np.add.at(scan.grid, (ids[batch.in_tissue], row[batch.in_tissue], column[batch.in_tissue]), 1)
