"""Nuclei of one slide between network and table."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class NucleusPoints:
    """Nuclei of one slide, in any order.

    Attributes:
        xy_level0: (N, 2) float, level-0 px of the full image.
        class_ids: (N,) int, index into the header's class names.
        score: (N,) float32, 0..1: that it is a nucleus.
        probabilities: (N, C) float32, 0..1: that it is of each class.
        in_tissue: (N,) bool: whether it lies in the slide's tissue polygons.
        embedding: (N, E) float16 where the header names a size.
        tile: (N,) int, the number of the tile that found it; of nuclei at seams of tiles, which are not settled yet.
        owned: (N,) bool, whether it lies in that tile's core; of the same.
    """

    xy_level0: NDArray[np.floating]
    class_ids: NDArray[np.integer]
    score: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    in_tissue: NDArray[np.bool_]
    embedding: NDArray[np.float16] | None = None
    tile: NDArray[np.integer] | None = None
    owned: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.xy_level0)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays that are there, by name."""
        return {one.name: array for one in fields(self) if (array := getattr(self, one.name)) is not None}

    def kept(self, mask: NDArray[np.bool_]) -> "NucleusPoints":
        """Those that a mask (N,) keeps."""
        return NucleusPoints(**{name: array[mask] for name, array in self.columns.items()})

    @classmethod
    def joined(cls, parts: Sequence["NucleusPoints"]) -> "NucleusPoints":
        """Some nuclei after others, all with the same columns; at least one part."""
        columns = [part.columns for part in parts]
        return cls(**{name: np.concatenate([one[name] for one in columns]) for name in columns[0]})
