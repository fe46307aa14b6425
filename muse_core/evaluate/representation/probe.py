"""A look at a backbone while it is pretrained: KNN on some labelled nuclei, which are read and cut once."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from muse_core.evaluate.representation.accuracy import accuracy_percent
from muse_core.evaluate.representation.encoders import MapEncoder
from muse_core.evaluate.representation.features import extract_features
from muse_core.evaluate.representation.knn import nearest, usable_ks, vote
from muse_core.evaluate.representation.protocols import EvaluationRequest
from muse_core.evaluate.representation.tiles import Tile, cut_tiles
from muse_core.models.backbone import MuseBackbone
from muse_core.pretrain.settings import PretrainSettings, ProbeSettings

_LEAST_STD = 1e-6


class KnnProbe:
    """Accuracy of nearest neighbours: tiles of `train` are asked about those of `val`, never a test split.

    Args:
        settings: which labels, how many tiles, how many neighbours.
        standardised: whether each channel gets mean 0 and deviation 1 over the nuclei of `train` first, as a run's
            export has it where `standardised_at_mpp` is set.

    Raises:
        ConfigError: no such dataset, tiles that cannot be cut so, or no neighbour asked for.
        DatasetError: its data are not what they should be.
    """

    def __init__(self, settings: ProbeSettings, *, standardised: bool) -> None:
        request = EvaluationRequest(settings.dataset, settings.data, mpp=settings.mpp)
        tiles = [list(cut_tiles(request.patches(split), request.tiles)) for split in ("train", "val")]
        self._bank, self._asked = (_spread(of_split, settings.tiles) for of_split in tiles)
        self._k, self._standardised = settings.k, standardised

    def __call__(self, backbone: MuseBackbone) -> float:
        """Percent of the nuclei of `val` that are given their class; the backbone stays as it is."""
        encoder = MapEncoder(copy.deepcopy(backbone)).eval()
        bank, asked = (extract_features(encoder, tiles, name="probe") for tiles in (self._bank, self._asked))
        known, unknown = bank.features, asked.features
        if self._standardised:
            known, unknown = _standard(known, unknown)
        (k,) = usable_ks([self._k], len(known))
        n_classes = int(torch.cat([bank.class_ids, asked.class_ids]).max()) + 1
        predicted = vote(nearest(known, unknown, k), bank.class_ids, [k], n_classes=n_classes)[k]
        return accuracy_percent(predicted, asked.class_ids)


def probe_for(settings: PretrainSettings) -> KnnProbe | None:
    """The probe that a recipe asks for; None where it asks for none.

    Raises:
        ConfigError: no such dataset, or a setting that makes no sense.
        DatasetError: its data are not what they should be.
    """
    if not settings.probe.dataset:
        return None
    return KnnProbe(settings.probe, standardised=settings.standardised_at_mpp > 0)


def _spread(tiles: Sequence[Tile], most: int) -> list[Tile]:
    """At most so many tiles, evenly from all, so that no patient fills the probe."""
    places = np.unique(np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int))
    return [tiles[place] for place in places]


def _standard(bank: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = bank.mean(dim=0), bank.std(dim=0).clamp(min=_LEAST_STD)
    return (bank - mean) / std, (asked - mean) / std
