"""PUMA: ROIs as TIFF, nuclei as polygons in GeoJSON, and lists of which ROI is in which split.

01_training_dataset_tif_ROIs/NAME.tif                  1024 px
01_training_dataset_tif_context_ROIs/NAME_context.tif  5120 px around it; may be absent
01_training_dataset_geojson_nuclei/NAME_nuclei.geojson
split/<split>.json                                     `anno`: images/NAME_.png -> dots of tumour, tils, other
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.images.decode import read_rgb, size_px
from muse_core.labels.patch import LabelledPatch, Labels, Surround

PUMA_CLASS_NAMES = ("tumour", "lymphocyte", "other")
# The scanner's is said to be 0.23; the published scores take 40x for 0.25, and so do we, to be compared with them.
PUMA_MPP = 0.25
_SPLIT_DOT_OFFSET_PX = 0.5  # dots of the split files are whole px

# Source: preprocess/05_puma_build_eval_data.py, https://github.com/alibaba-damo-academy/MUSE: plasma cells are others.
_COARSE = {"nuclei_tumor": 0, "nuclei_lymphocyte": 1} | dict.fromkeys(
    (
        "nuclei_plasma_cell",
        "nuclei_histiocyte",
        "nuclei_melanophage",
        "nuclei_neutrophil",
        "nuclei_stroma",
        "nuclei_endothelium",
        "nuclei_epithelium",
        "nuclei_apoptosis",
    ),
    2,
)


def read_puma(root: Path, split: str, *, labels: Labels = "polygons") -> list[LabelledPatch]:
    """PUMA (Schuiveling et al., 2024): melanoma, H&E, 40x, ten classes joined to three. See `read_labelled_patches`.

    Args:
        root: the dataset's folder.
        split: train, val or test.
        labels: `polygons` takes the centroids of the polygons, plasma cells being others, as tables 1 and 2 of the
            paper do; `dots` the dots and classes that the split file itself holds, as table 3 does.
    """
    path = root / "split" / f"{split}.json"
    dots = _read_split(path)
    patches = []
    for name, rows in dots.items():
        image = read_rgb(root / "01_training_dataset_tif_ROIs" / f"{name}.tif")
        if labels == "dots":
            xy, class_ids = _split_dots(rows, f"{path}: {name}")
        else:
            xy, class_ids = _centroids(root / "01_training_dataset_geojson_nuclei" / f"{name}_nuclei.geojson")
        around = _surround(root / "01_training_dataset_tif_context_ROIs" / f"{name}_context.tif", image)
        patches.append(LabelledPatch(name, image, xy, class_ids, PUMA_CLASS_NAMES, PUMA_MPP, surround=around))
    return patches


def _read_split(path: Path) -> dict[str, Any]:
    """ROI names of a split, with the dots beside them."""
    listed = _read_json(path, "the split's list; PUMA's are in the folder data/PUMA of the MUSE repository").get("anno")
    if not isinstance(listed, dict) or not listed:
        raise DatasetError(f"{path}: no entry 'anno' with an image a key")
    # images/training_set_metastatic_roi_033_.png -> training_set_metastatic_roi_033
    return {PurePosixPath(key).stem.rstrip("_"): rows for key, rows in listed.items()}


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); {what}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error}); {what}") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: a {type(value).__name__} found; {what}")
    return value


def _centroids(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Centroids (N, 2) by area and coarse classes (N,) of the polygons; QuPath's frame is ours already."""
    features = _read_json(path, "each ROI needs its nuclei").get("features")
    if not isinstance(features, list):
        raise DatasetError(f"{path}: no list 'features'; a GeoJSON FeatureCollection needed")
    found = [
        (*centre, class_id)
        for number, feature in enumerate(features, 1)
        for centre, class_id in _centres(feature, f"{path}, feature {number}")
    ]
    table = np.array(found, np.float64).reshape(-1, 3)
    return table[:, :2].astype(np.float32), table[:, 2].astype(np.int64)


def _centres(feature: object, where: str) -> Iterator[tuple[tuple[float, float], int]]:
    """Each polygon of a feature is a nucleus."""
    try:
        name = feature["properties"]["classification"]["name"]  # type: ignore[index]
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))  # type: ignore[index]
    except (KeyError, TypeError, shapely.errors.GEOSException) as error:
        raise DatasetError(f"{where}: no classified polygon ({type(error).__name__}: {error})") from None
    if name not in _COARSE:
        raise DatasetError(f"{where}: class {name!r} is unknown; one of {', '.join(_COARSE)} needed")
    if shape.is_empty or shape.geom_type not in ("Polygon", "MultiPolygon"):
        raise DatasetError(f"{where}: {shape.geom_type} found; a polygon with points needed")
    for part in shapely.get_parts(shape):
        yield (part.centroid.x, part.centroid.y), _COARSE[name]


def _split_dots(rows: object, where: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The split file's own dots, (N, 2), and classes (N,): lists of tumour, tils, other."""
    if not isinstance(rows, list) or len(rows) != len(PUMA_CLASS_NAMES):
        raise DatasetError(f"{where}: {len(PUMA_CLASS_NAMES)} lists of dots needed, tumour, tils and other")
    try:
        dots = [np.array(dots, np.float32).reshape(-1, 2) for dots in rows]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{where}: not lists of dots x, y ({error})") from None
    class_ids = np.repeat(np.arange(len(dots)), [len(one) for one in dots])
    return np.concatenate(dots) + np.float32(_SPLIT_DOT_OFFSET_PX), class_ids


def _surround(path: Path, image: NDArray[np.uint8]) -> Surround | None:
    """The context image, whose middle the ROI is; read only when its pixels are wanted."""
    if not path.is_file():
        return None
    width, height = size_px(path)
    x_px, y_px = (width - image.shape[1]) // 2, (height - image.shape[0]) // 2
    if min(x_px, y_px) < 0:
        raise DatasetError(f"{path}: {width}x{height} px, smaller than the ROI in its middle")
    return Surround(path, x_px, y_px)
