"""Nuclei of one square of a slide as bytes that a browser hands to its graphics card as they are."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset

TILE_PX = 4096  # level-0 px along the side of a square
STEPS_PER_PX = 16  # of positions within a square: 65,536 steps fit 16 bits
POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("class", "u1"), ("score", "u1"), ("chance", "u1"), ("in_tissue", "u1")])


def points_in_tile(dataset: NucleiDataset, slide_id: str, column: int, row: int) -> bytes:
    """The nuclei of a square, eight bytes each, in the order of the dataset.

    Args:
        dataset: the nuclei.
        slide_id: the slide.
        column: of the square, from the slide's left edge.
        row: of the square, from its top edge.

    Returns:
        Records of `POINT`: x, y in 1/16 level-0 px from the square's corner; class id; score and probability of the
        class it was given, 0..255 for 0..1.

    Raises:
        DatasetError: no such slide, or a file is damaged.
    """
    box = Box(column * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX)
    names = dataset.part(slide_id).class_names
    known = dataset.part(slide_id).columns
    chances = [f"p_{name}" for name in names if f"p_{name}" in known]
    columns = ["x_level0", "y_level0", "class_id", "score", "in_tissue", *chances]
    tables = dataset.tables(slide_id, columns, area=box, frame="level0")
    return b"".join(_packed(table, box, len(chances)).tobytes() for table in tables)


def _packed(table: pa.Table, box: Box, n_chances: int) -> NDArray[np.void]:
    packed = np.zeros(len(table), POINT)
    class_ids = table["class_id"].to_numpy()
    for name, corner in (("x", box.x), ("y", box.y)):
        steps = np.round((table[f"{name}_level0"].to_numpy() - corner) * STEPS_PER_PX)
        packed[name] = np.clip(steps, 0, 0xFFFF)
    packed["class"] = class_ids
    packed["score"] = _byte(table["score"].to_numpy())
    packed["in_tissue"] = table["in_tissue"].to_numpy()
    packed["chance"] = 255
    for class_id in range(n_chances):
        mine = class_ids == class_id
        packed["chance"][mine] = _byte(table.column(5 + class_id).to_numpy()[mine])
    return packed


def _byte(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.round(shares * 255), 0, 255).astype(np.uint8)
