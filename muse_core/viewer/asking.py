"""Which nuclei to ask a person about: the most doubtful, the most typical of a class, or those most like another."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from muse_core.errors import DatasetError
from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset, NucleiPart
from muse_core.viewer.digest import Asked
from muse_core.viewer.run import SlideShown, ViewedRun, need_nuclei

Kind = Literal["doubtful", "typical"]
_MOST_SLIDES = 60  # looked through for one answer
_APART_UM = 20.0  # of two nuclei nearer than this only one is asked about: a person sees both in one picture
_LABELLED_UM = 2.0
_ALIKE_UM = 8.0


def to_ask(
    run: ViewedRun,
    labelled: Callable[[str], list[tuple[float, float]]],
    *,
    kind: Kind,
    class_name: str | None,
    slide_id: str | None,
    count: int,
) -> list[dict[str, Any]]:
    """Nuclei to ask about, of all slides in turn.

    Args:
        run: whose slides.
        labelled: level-0 points of a slide that were asked already.
        kind: doubtful or typical.
        class_name: only of this class; None for all.
        slide_id: only of this slide; None for all.
        count: how many.

    Raises:
        DatasetError: no such slide, or a file is damaged.
    """
    slide_ids = (
        [slide_id] if slide_id is not None else sorted(run.slide_ids, key=lambda one: sha256(one.encode()).digest())
    )
    lists = []
    for one in slide_ids[:_MOST_SLIDES]:
        shown = run.slide(one)
        if shown.dataset is not None:
            lists.append(list(_of_slide(run, shown, labelled(one), kind, class_name)))
    in_turn = [nucleus for round_ in zip_longest(*lists) for nucleus in round_ if nucleus is not None]
    return in_turn[:count]


def alike(
    shown: SlideShown, labelled: list[tuple[float, float]], xy_level0: tuple[float, float], count: int
) -> list[dict[str, Any]]:
    """The nuclei of a slide whose embeddings are most like that of the one at a point.

    Args:
        shown: the slide.
        labelled: its level-0 points that were asked already.
        xy_level0: where the one is.
        count: how many.

    Raises:
        DatasetError: the slide's nuclei have no embeddings, or none lies there.
    """
    dataset = need_nuclei(shown)
    part = dataset.part(shown.slide_id)
    if "embedding" not in part.columns:
        raise DatasetError(
            f"slide {shown.slide_id}: its nuclei have no embeddings; run muse infer with --set embedding=true for them"
        )
    columns = ["nucleus_id", "x_level0", "y_level0", "class_id", "score", *_chances(part.class_names), "embedding"]
    mine = _nearest(dataset, shown.slide_id, xy_level0, columns)
    seen = _Seen(np.array(labelled).reshape(-1, 2) * part.slide_mpp)
    most = count + 1 + len(labelled)
    best: list[tuple[float, dict[str, Any]]] = []
    for table in dataset.tables(shown.slide_id, columns):
        vectors = _unit(_vectors(table["embedding"]))
        likeness = vectors @ _unit(np.asarray(mine["embedding"], np.float32)[None])[0]
        rows = np.argsort(-likeness)[:most].tolist()
        taken = table.drop_columns("embedding").take(rows).to_pylist()
        best += list(zip(likeness[rows].tolist(), taken, strict=True))
        best = sorted(best, key=lambda pair: -pair[0])[:most]
    others = [
        row for _, row in best if row["nucleus_id"] != mine["nucleus_id"] and not seen.is_labelled(_um(row, part))
    ]
    return [_asked_row(shown.slide_id, part.class_names, row) for row in others[:count]]


def nucleus_at(shown: SlideShown, xy_level0: tuple[float, float]) -> dict[str, Any]:
    """What is known of the nucleus at a point: its columns.

    Raises:
        DatasetError: none lies there (reason not_found).
    """
    dataset = need_nuclei(shown)
    columns = [name for name in dataset.part(shown.slide_id).columns if name not in ("geometry", "bbox", "embedding")]
    row = _nearest(dataset, shown.slide_id, xy_level0, columns)
    return row | {"nucleus_id": str(row["nucleus_id"])}  # JavaScript's numbers end at 2^53


def reach_um(shown: SlideShown, xy_level0: tuple[float, float], most_um: float = 6.0) -> float:
    """Half the way from a point to the nearest other nucleus, at most `most_um`: ground that is surely no other's."""
    dataset = need_nuclei(shown)
    mpp = np.array(dataset.part(shown.slide_id).slide_mpp)
    points = _points_around(dataset, shown.slide_id, xy_level0, 2 * most_um)
    distances = np.hypot(*((points - xy_level0) * mpp).T)
    others = distances[distances > _LABELLED_UM]
    return float(min(most_um, others.min() / 2)) if len(others) else most_um


def _of_slide(
    run: ViewedRun, shown: SlideShown, labelled: list[tuple[float, float]], kind: Kind, class_name: str | None
) -> Iterator[dict[str, Any]]:
    digest = run.digest(shown)
    mpp = np.array(need_nuclei(shown).part(shown.slide_id).slide_mpp)
    if kind == "typical":
        pools = [
            pool for name, pool in zip(digest.class_names, digest.typical, strict=True) if class_name in (None, name)
        ]
        order = [
            place for round_ in zip_longest(*(range(len(pool.merit)) for pool in pools)) for place in enumerate(round_)
        ]
        chosen = [(pools[pool], row) for pool, row in order if row is not None]
    else:
        pool = digest.doubtful
        chosen = [(pool, row) for row in range(len(pool.merit))]
        chosen = [one for one in chosen if class_name in (None, digest.class_names[int(pool.class_ids[one[1]])])]
    if not chosen:
        return
    seen = _Seen(np.array(labelled).reshape(-1, 2) * mpp)
    for pool, row in chosen:
        if seen.is_new(pool.xy_level0[row] * mpp):
            yield _asked(shown.slide_id, digest.class_names, pool, row)


class _Seen:
    """Places that need not be asked about again, µm."""

    def __init__(self, labelled_um: NDArray[np.float64]) -> None:
        self._labelled = cKDTree(labelled_um) if len(labelled_um) else None
        self._given: list[NDArray[np.float64]] = []

    def is_labelled(self, xy_um: NDArray[np.float64]) -> bool:
        """Whether the nucleus at a place was asked about already."""
        return self._labelled is not None and bool(self._labelled.query(xy_um)[0] <= _LABELLED_UM)

    def is_new(self, xy_um: NDArray[np.float64]) -> bool:
        """Whether a place is neither labelled nor near one already given; it is given then."""
        if self.is_labelled(xy_um):
            return False
        if any(np.hypot(*(xy_um - other)) < _APART_UM for other in self._given):
            return False
        self._given.append(xy_um)
        return True


def _um(row: dict[str, Any], part: NucleiPart) -> NDArray[np.float64]:
    return np.array((row["x_level0"], row["y_level0"])) * part.slide_mpp


def _asked(slide_id: str, class_names: tuple[str, ...], pool: Asked, row: int) -> dict[str, Any]:
    values = {
        "nucleus_id": int(pool.nucleus_ids[row]),
        "x_level0": float(pool.xy_level0[row, 0]),
        "y_level0": float(pool.xy_level0[row, 1]),
        "class_id": int(pool.class_ids[row]),
        "score": float(pool.scores[row]),
    }
    chances = dict(zip(_chances(class_names), pool.probabilities[row].tolist(), strict=True))
    return _asked_row(slide_id, class_names, values | chances)


def _asked_row(slide_id: str, class_names: tuple[str, ...], row: dict[str, Any]) -> dict[str, Any]:
    return {
        "slide_id": slide_id,
        "nucleus_id": str(row["nucleus_id"]),
        "x": row["x_level0"],
        "y": row["y_level0"],
        "class_name": class_names[row["class_id"]],
        "score": row["score"],
        "chances": {name: row[f"p_{name}"] for name in class_names},
    }


def _nearest(
    dataset: NucleiDataset, slide_id: str, xy_level0: tuple[float, float], columns: list[str]
) -> dict[str, Any]:
    mpp = dataset.part(slide_id).slide_mpp
    found = dataset.within(slide_id, _box_around(xy_level0, mpp, _ALIKE_UM), frame="level0", columns=columns)
    if not len(found):
        raise DatasetError(
            f"slide {slide_id}: no nucleus at {xy_level0[0]:.0f}, {xy_level0[1]:.0f}", reason="not_found"
        )
    xy = np.stack([found["x_level0"].to_numpy(), found["y_level0"].to_numpy()], axis=1)
    nearest = int(np.hypot(*(xy - xy_level0).T).argmin())
    return dict(found.slice(nearest, 1).to_pylist()[0])


def _points_around(
    dataset: NucleiDataset, slide_id: str, xy_level0: tuple[float, float], reach_um: float
) -> NDArray[np.float64]:
    box = _box_around(xy_level0, dataset.part(slide_id).slide_mpp, reach_um)
    found = dataset.within(slide_id, box, frame="level0", columns=["x_level0", "y_level0"])
    return np.stack([found["x_level0"].to_numpy(), found["y_level0"].to_numpy()], axis=1)


def _box_around(xy_level0: tuple[float, float], mpp: tuple[float, float], reach_um: float) -> Box:
    reach_x, reach_y = reach_um / mpp[0], reach_um / mpp[1]
    return Box(xy_level0[0] - reach_x, xy_level0[1] - reach_y, 2 * reach_x, 2 * reach_y)


def _chances(class_names: tuple[str, ...]) -> list[str]:
    return [f"p_{name}" for name in class_names]


def _vectors(column: Any) -> NDArray[np.float32]:  # noqa: ANN401 (a chunked array of fixed-size lists)
    flat = column.combine_chunks()
    return np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(flat), -1)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
