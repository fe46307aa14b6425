"""What lies in an area that somebody drew: counts, densities, and how near classes lie to one another."""

from itertools import product
from typing import Any

import numpy as np
import shapely
from scipy.spatial import cKDTree

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.viewer.marks import Rings

_MOST_FOR_NEIGHBOURS = 300_000  # nuclei; beyond, a second is too short for them


def area_statistics(dataset: NucleiDataset, slide_id: str, rings: Rings) -> dict[str, Any]:
    """Counts of an area.

    Args:
        dataset: the nuclei.
        slide_id: the slide.
        rings: outline and holes, level-0 px.

    Returns:
        `area_mm2`, `n_nuclei`, `classes` (name, n, share, per_mm2), and `neighbours`: of each ordered pair of classes
        the median distance in µm from a nucleus to the nearest of the other.

    Raises:
        DatasetError: the outline holds no area, no such slide, or a file is damaged.
    """
    area = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))
    if area.area == 0:
        raise DatasetError("the outline holds no area; draw at least three points that are not on a line")
    part = dataset.part(slide_id)
    found = dataset.within(slide_id, area, frame="level0", columns=["x_level0", "y_level0", "class_id"])
    xy_um = np.stack([found["x_level0"].to_numpy(), found["y_level0"].to_numpy()], axis=1) * part.slide_mpp
    class_ids = found["class_id"].to_numpy()
    mm2 = area.area * part.slide_mpp[0] * part.slide_mpp[1] / 1e6
    counts = np.bincount(class_ids, minlength=len(part.class_names)).tolist()
    classes = [
        {"name": name, "n": count, "share": count / max(1, len(class_ids)), "per_mm2": count / mm2}
        for name, count in zip(part.class_names, counts, strict=True)
    ]
    by_class = {name: xy_um[class_ids == number] for number, name in enumerate(part.class_names)}
    near = _neighbours(by_class) if len(class_ids) <= _MOST_FOR_NEIGHBOURS else []
    return {"area_mm2": mm2, "n_nuclei": len(class_ids), "classes": classes, "neighbours": near}


def _neighbours(by_class: dict[str, np.ndarray[Any, np.dtype[np.float64]]]) -> list[dict[str, Any]]:
    trees = {name: cKDTree(xy) for name, xy in by_class.items() if len(xy)}
    rows = []
    for of, to in product(trees, trees):
        if of == to and len(by_class[of]) < 2:
            continue
        distances, _ = trees[to].query(by_class[of], k=[2 if of == to else 1])
        rows.append({"of": of, "to": to, "median_um": float(np.median(distances))})
    return rows
