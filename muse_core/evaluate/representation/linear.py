"""A linear layer trained on frozen features: the second protocol of table 2 of the paper."""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from muse_core.config import Settings


class LinearSettings(Settings):
    """How the layer is trained. Source: linear_knn_eval.py, https://github.com/alibaba-damo-academy/MUSE."""

    epochs: int = Field(100, ge=1)
    batch_nuclei: int = Field(256, ge=1)
    learning_rate: float = Field(0.01, gt=0)  # by a cosine to 0, stepped once an epoch
    momentum: float = Field(0.9, ge=0, lt=1)


@dataclass(frozen=True)
class LinearResult:
    """The layer of the epoch that did best on validation.

    Attributes:
        layer: (D) to (classes).
        epoch: which one, from 0 on.
        validation_accuracy: its share of right answers, 0..1.
    """

    layer: nn.Linear
    epoch: int
    validation_accuracy: float


def new_layer(channels: int, n_classes: int, generator: torch.Generator) -> nn.Linear:
    """A layer that starts as the protocol says: weights of spread 0.01, no bias."""
    layer = nn.Linear(channels, n_classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def train_linear(
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    n_classes: int,
    settings: LinearSettings | None = None,
    seed: int = 2025,
) -> LinearResult:
    """Train on features as they are, by cross entropy; keep the epoch best on validation, the later one of equals.

    Args:
        train: features (N, D) float32 and class ids (N,) int64; all of it stays where it is, no loader between.
        validation: the same.
        n_classes: how many.
        settings: see there.
        seed: of the first weights and of the order.
    """
    settings = settings or LinearSettings()
    features, class_ids = train
    generator = torch.Generator().manual_seed(seed)
    layer = new_layer(features.shape[1], n_classes, generator).to(features.device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    batch = min(settings.batch_nuclei, len(features))
    best, best_epoch, best_accuracy = {}, -1, -1.0
    for epoch in range(settings.epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for start in range(0, len(order) - batch + 1, batch):  # what is left over is dropped, as published
            chosen = order[start : start + batch]
            loss = functional.cross_entropy(layer(features[chosen]), class_ids[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        accuracy = float((predict(layer, validation[0]) == validation[1]).float().mean())
        if accuracy >= best_accuracy:
            best_epoch, best_accuracy = epoch, accuracy
            best = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(best)
    return LinearResult(layer, best_epoch, best_accuracy)


def predict(layer: nn.Linear, features: Tensor) -> Tensor:
    """Class ids (N,) int64 of features (N, D)."""
    with torch.inference_mode():
        logits: Tensor = layer(features)
    return logits.argmax(dim=1)
