"""The projection head of self-distillation: features to scores against K learned prototypes."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Prototypes(nn.Module):
    """Cosines between rows and K learned directions, times a gain.

    Args:
        inputs: E, width of the rows.
        prototypes: K.
        fixed_gain: the gain of each prototype stays 1; DINO's `norm_last_layer`.
    """

    def __init__(self, inputs: int, prototypes: int, *, fixed_gain: bool = True) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(prototypes, inputs), std=0.02))
        self.gain = None if fixed_gain else nn.Parameter(torch.ones(prototypes))

    def forward(self, rows: Tensor) -> Tensor:
        """(R, E), each of length 1, to logits (R, K) float32; under autocast too.

        They are divided by a temperature of 0.04, and the 8 bits of bfloat16 would leave an error of 0.1 there.
        """
        with torch.autocast(rows.device.type, enabled=False):
            logits = functional.linear(rows.float(), functional.normalize(self.directions.float(), dim=1))
            return logits if self.gain is None else logits * self.gain


class ProjectionHead(nn.Module):
    """An MLP to a bottleneck on the unit sphere, and prototypes upon it.

    The last layer's parameters have `last_layer` in their names: training holds them still at first.

    Args:
        inputs: D, width of the features.
        prototypes: K.
        hidden: width of the MLP's inner layers.
        bottleneck: E, width of its output.
        layers: of the MLP.
        fixed_gain: see `Prototypes`.

    Source: DINO's head, https://arxiv.org/abs/2104.14294, appendix C; its defaults are these.
    """

    def __init__(
        self,
        inputs: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        fixed_gain: bool = True,
    ) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])  # no activation after the last
        self.last_layer = Prototypes(bottleneck, prototypes, fixed_gain=fixed_gain)

    @property
    def n_prototypes(self) -> int:
        """K, the width of the logits."""
        return len(self.last_layer.directions)

    def bottleneck(self, features: Tensor) -> Tensor:
        """(R, D) to (R, E) float32 of length 1."""
        return functional.normalize(self.mlp(features).float(), dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """(R, D) to logits (R, K) float32."""
        logits: Tensor = self.last_layer(self.bottleneck(features))
        return logits
