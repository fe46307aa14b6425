"""Features of labelled nuclei, computed once for a split and used by every protocol."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.errors import DatasetError
from muse_core.evaluate.representation.encoders import MapEncoder, NucleusEncoder, checked_features
from muse_core.evaluate.representation.tiles import Tile


@dataclass(frozen=True)
class NucleusFeatures:
    """The nuclei of a split.

    Attributes:
        features: (N, D) float32.
        class_ids: (N,) int64.
        tile_index: (N,) int64, which tile of the split, in the order they were cut.
        xy: (N, 2) float32, px of that tile.
        n_tiles: how many there were.
    """

    features: Tensor
    class_ids: Tensor
    tile_index: NDArray[np.int64]
    xy: NDArray[np.float32]
    n_tiles: int


def extract_features(
    encoder: NucleusEncoder | MapEncoder,
    tiles: Iterable[Tile],
    *,
    batch_tiles: int = 8,
    name: str = "encoder",
    on_batch: Callable[[int, int], None] = lambda tiles, nuclei: None,
) -> NucleusFeatures:
    """Run an encoder over tiles, once, in float32 and without gradients.

    Args:
        encoder: see `encoders`; a module must be in eval mode.
        tiles: of one size.
        batch_tiles: tiles a call.
        name: what to call the encoder in errors.
        on_batch: told how many tiles and nuclei have just been done.

    Raises:
        DatasetError: no tile, or the encoder returns something else than a finite feature a nucleus.
    """
    call = encoder.on_arrays if isinstance(encoder, MapEncoder) else encoder
    features, classes, xy, index, done = [], [], [], [], 0
    for group in _batches(tiles, batch_tiles):
        points = [tile.xy for tile in group]
        with torch.inference_mode():
            found = call(np.stack([tile.image for tile in group]), points)
        features.append(checked_features(found, sum(map(len, points)), name))
        classes += [tile.class_ids for tile in group]
        xy += points
        index += [np.full(len(tile.xy), done + place) for place, tile in enumerate(group)]
        done += len(group)
        on_batch(len(group), sum(map(len, points)))
    if not done:
        raise DatasetError("the split has no tile with a nucleus; nothing can be scored on it")
    return NucleusFeatures(
        torch.cat(features),
        torch.from_numpy(np.concatenate(classes)),
        np.concatenate(index).astype(np.int64),
        np.concatenate(xy),
        done,
    )


def _batches(tiles: Iterable[Tile], size: int) -> Iterator[list[Tile]]:
    rest = iter(tiles)
    while group := list(islice(rest, size)):
        yield group
