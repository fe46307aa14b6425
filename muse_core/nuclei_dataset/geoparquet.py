"""What makes a Parquet file GeoParquet 1.1: points as WKB, their covering, and the `geo` metadata.

Source: https://github.com/opengeospatial/geoparquet/blob/v1.1.0/format-specs/geoparquet.md
"""

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from muse_core.schemas import NUCLEI

GEO_KEY = b"geo"
_WKB_POINT = np.dtype([("little_endian", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])  # 21 bytes
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def wkb_points(xy: NDArray[np.float64]) -> pa.Array:
    """Points (N, 2) as a binary array of WKB."""
    points = np.zeros(len(xy), _WKB_POINT)
    points["little_endian"], points["kind"], points["x"], points["y"] = 1, 1, xy[:, 0], xy[:, 1]
    ends = np.arange(len(xy) + 1, dtype=np.int32) * _WKB_POINT.itemsize
    return pa.BinaryArray.from_buffers(pa.binary(), len(xy), [None, pa.py_buffer(ends), pa.py_buffer(points)])


def covering(xy: NDArray[np.float64]) -> pa.StructArray:
    """The box of each point (N, 2), float32, rounded outwards: it holds the point whatever its size."""
    near = xy.astype(np.float32)
    low = np.where(near > xy, np.nextafter(near, np.float32(-np.inf)), near)
    high = np.where(near < xy, np.nextafter(near, np.float32(np.inf)), near)
    sides = (low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    arrays = [pa.array(np.ascontiguousarray(side, np.float32)) for side in sides]
    return pa.StructArray.from_arrays(arrays, fields=list(NUCLEI.field("bbox").type))


def geo_metadata(bounds: tuple[float, float, float, float] | None) -> bytes:
    """The value of the file's `geo` key.

    Args:
        bounds: left, top, right and bottom of all points, level-0 px; None where there is no point.
    """
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": ["Point"],
        "crs": None,  # left out it would mean longitude and latitude; these are pixels
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    if bounds is not None:
        column["bbox"] = list(bounds)
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()
