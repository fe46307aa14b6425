"""A PUMA folder of one drawn ROI, in which polygons and the split's dots name one nucleus differently."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

NAME = "training_set_primary_roi_001"
ROIS, CONTEXT, NUCLEI = (f"01_training_dataset_{kind}" for kind in ("tif_ROIs", "tif_context_ROIs", "geojson_nuclei"))


def polygon(*points: list[float]) -> dict:
    """A polygon of GeoJSON."""
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


TRIANGLE = polygon([10, 10], [40, 10], [10, 40])  # centroid (20, 20)
SQUARE = polygon([100, 50], [104, 50], [104, 54], [100, 54])  # (102, 52)


def feature(name: str, geometry: dict) -> dict:
    """A classified outline as QuPath writes it."""
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "id": "0-1", "geometry": geometry, "properties": properties}


def write_nuclei(root: Path, features: Sequence[dict]) -> None:
    """The ROI's outlines."""
    (root / NUCLEI).mkdir(exist_ok=True)
    text = json.dumps({"type": "FeatureCollection", "features": list(features)})
    (root / NUCLEI / f"{NAME}_nuclei.geojson").write_text(text)


def write_puma(root: Path, splits: Sequence[str] = ("val",)) -> None:
    """The folder: a tumour nucleus, and a plasma cell that the split files call a lymphocyte."""
    for folder in (ROIS, "split"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(root / ROIS / f"{NAME}.tif"), rng.integers(0, 255, (256, 256, 3), np.uint8))
    write_nuclei(root, [feature("nuclei_tumor", TRIANGLE), feature("nuclei_plasma_cell", SQUARE)])
    dots = {f"images/{NAME}_.png": [[[20, 20]], [[101, 51]], []]}
    for split in splits:
        (root / "split" / f"{split}.json").write_text(json.dumps({"classes": ["tumor", "tils", "other"], "anno": dots}))
