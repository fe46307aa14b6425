"""The whole network trained with a linear layer on top: the protocol of table 1 of the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from muse_core.config import Settings
from muse_core.errors import DatasetError
from muse_core.evaluate.representation.encoders import MapEncoder, as_tensors
from muse_core.evaluate.representation.features import extract_features
from muse_core.evaluate.representation.linear import LinearSettings, predict
from muse_core.evaluate.representation.tiles import Tile
from muse_core.models.backbone import MuseBackbone
from muse_core.models.encoder import ConvEncoder


class EncoderFinetuneSettings(Settings):
    """How the network is trained. Source: finetuning_eval.py, https://github.com/alibaba-damo-academy/MUSE."""

    epochs: int = Field(10, ge=1)
    batch_tiles: int = Field(32, ge=1)
    # 1e-5 for a ViT and 4e-5 for a ResNet as published; None chooses by the kind of encoder.
    learning_rate: float | None = Field(None, gt=0)  # by a cosine to 0, stepped once an epoch
    linear: LinearSettings = LinearSettings()  # of the layer that it starts from


@dataclass(frozen=True)
class FinetuneResult:
    """The network and layer of the epoch that did best on validation, both in place.

    Attributes:
        epoch: which one, from 0 on.
        validation_accuracy: its share of right answers, 0..1.
    """

    epoch: int
    validation_accuracy: float


def finetune(
    encoder: MapEncoder,
    layer: nn.Linear,
    train: Sequence[Tile],
    validation: Sequence[Tile],
    *,
    settings: EncoderFinetuneSettings,
    seed: int = 2025,
    on_epoch: Callable[[int, float], None] = lambda epoch, accuracy: None,
) -> FinetuneResult:
    """Train encoder and layer together, norms included; both end as the epoch best on validation, the later of equals.

    Args:
        encoder: what is trained, in place.
        layer: from `train_linear`, in place.
        train: tiles, held in memory: 150 kB each at 224 px.
        validation: the same.
        settings: see there.
        seed: of the order of tiles.
        on_epoch: told each epoch's number and validation accuracy (0..1).

    Raises:
        DatasetError: the loss is no longer finite.
    """
    device = next(encoder.parameters()).device
    layer.to(device)
    rate = settings.learning_rate or _published_rate(encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *layer.parameters()], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    generator = torch.Generator().manual_seed(seed)
    best, best_epoch, best_accuracy = {}, -1, -1.0
    both = nn.ModuleDict({"encoder": encoder, "layer": layer})
    for epoch in range(settings.epochs):
        both.train()
        order = torch.randperm(len(train), generator=generator)
        for chosen in torch.split(order, settings.batch_tiles):
            loss = _loss(encoder, layer, [train[index] for index in chosen.tolist()])
            if not bool(torch.isfinite(loss)):
                raise DatasetError(f"fine-tuning: the loss is {float(loss)} in epoch {epoch}; lower learning_rate")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        predicted, class_ids = predict_tiles(encoder, layer, validation)
        accuracy = float((predicted == class_ids).float().mean())
        on_epoch(epoch, accuracy)
        if accuracy >= best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            best = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    both.load_state_dict(best)
    return FinetuneResult(best_epoch, best_accuracy)


def predict_tiles(encoder: MapEncoder, layer: nn.Linear, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor]:
    """Predicted and true class ids (N,) of the nuclei of tiles, in eval mode, on the CPU."""
    encoder.eval()
    found = extract_features(encoder, tiles)
    return predict(layer, found.features.to(layer.weight.device)).cpu(), found.class_ids


def _published_rate(encoder: MapEncoder) -> float:
    inner = encoder.net.encoder if isinstance(encoder.net, MuseBackbone) else encoder.net
    return 4e-5 if isinstance(inner, ConvEncoder) else 1e-5


def _loss(encoder: MapEncoder, layer: nn.Linear, tiles: Sequence[Tile]) -> Tensor:
    """Cross entropy averaged over all nuclei of the tiles."""
    device = next(encoder.parameters()).device
    pictures = np.stack([tile.image for tile in tiles])
    images, xy, index = as_tensors(pictures, [tile.xy for tile in tiles], encoder.input)
    class_ids = torch.cat([torch.from_numpy(tile.class_ids) for tile in tiles]).to(device)
    return functional.cross_entropy(layer(encoder(images.to(device), xy.to(device), index.to(device))), class_ids)
