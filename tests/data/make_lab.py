"""A lab's folder of dots: a drawn slide or image, and labels as QuPath, a table editor or COCO tools write them."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.data.make_slides import Drawing, draw_aperio, tissue_image

SLIDE_MPP = 0.5


def point(x: float, y: float, name: str | None) -> dict:
    """A classified point annotation of QuPath."""
    return feature({"type": "Point", "coordinates": [x, y]}, name)


def box(x0: float, y0: float, x1: float, y1: float, name: str | None = "Region*") -> dict:
    """A rectangle annotation of QuPath."""
    return feature({"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}, name)


def feature(geometry: dict, name: str | None) -> dict:
    """A QuPath annotation of a class, or of none."""
    properties: dict = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "id": "7bb6cd24-9c1f-4f0a-a3b0-5bd5a8f1e0aa",
        "geometry": geometry,
        "properties": properties,
    }


def write_geojson(root: Path, name: str, features: Sequence[dict]) -> Path:
    """`labels/NAME.geojson`."""
    (root / "labels").mkdir(parents=True, exist_ok=True)
    path = root / "labels" / f"{name}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def write_csv(root: Path, name: str, rows: Sequence[tuple], header: str = "x,y,class") -> Path:
    """`labels/NAME.csv`."""
    (root / "labels").mkdir(parents=True, exist_ok=True)
    path = root / "labels" / f"{name}.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_image(root: Path, name: str, width: int = 300, height: int = 200, *, seed: int = 0) -> np.ndarray:
    """`images/NAME.png` of drawn tissue and dataset.toml with its µm/px; the (N, 2) nuclei."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    image, nuclei = tissue_image(width, height, mpp=SLIDE_MPP, seed=seed)
    cv2.imwrite(str(root / "images" / f"{name}.png"), image[:, :, ::-1])
    (root / "dataset.toml").write_text(f"mpp = {SLIDE_MPP}\n")
    return nuclei


def write_slide(
    root: Path, name: str, width: int = 1600, height: int = 1200, *, mpp: float | None = SLIDE_MPP
) -> np.ndarray:
    """`images/NAME.svs` of drawn tissue; the (N, 2) nuclei, level-0 px."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    image, nuclei = tissue_image(width, height, mpp=SLIDE_MPP, seed=3)
    draw_aperio(root / "images" / f"{name}.svs", image, Drawing(mpp=(mpp, mpp) if mpp else None))
    return nuclei
