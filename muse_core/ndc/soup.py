"""One network whose weights are the mean of several's, each trained on from another: as good as any, and steadier.

Source: Wortsman et al., Model soups, ICML 2022, https://arxiv.org/abs/2203.05482
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from muse_core.errors import ConfigError
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint


def mean_of(paths: Sequence[Path], shares: Sequence[float] | None = None) -> NdcCheckpoint:
    """A checkpoint with the mean of the tensors of several, not calibrated; the rest is the last one's.

    Args:
        paths: checkpoints of `muse finetune` with the same backbone, heads and classes.
        shares: what each counts; None for all alike.

    Raises:
        ConfigError: fewer than two, one that is no such file, or one of another network or other classes.
    """
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} checkpoints: two or more needed for a mean")
    all_of = [load_checkpoint(path) for path in paths]
    last = all_of[-1]
    for path, one in zip(paths, all_of, strict=True):
        if not are_alike(one, last):
            raise ConfigError(f"{path}: another backbone, other heads or classes than {paths[-1]}; one kind needed")
    counts = torch.tensor(shares or [1.0] * len(paths), dtype=torch.float64)
    states = [one.net.state_dict() for one in all_of]
    net = build_net(last.backbone, last.head)
    net.load_state_dict(
        {
            name: _mean([state[name] for state in states], counts) if tensor.is_floating_point() else tensor
            for name, tensor in states[-1].items()
        }
    )
    notes = {
        "mean_of": ", ".join(one.notes.get("settings", path.name) for path, one in zip(paths, all_of, strict=True))
    }
    return NdcCheckpoint(net.eval(), last.backbone, last.head, notes)


def _mean(tensors: list[torch.Tensor], counts: torch.Tensor) -> torch.Tensor:
    """In double, so that equal ones have exactly themselves as mean."""
    mean: torch.Tensor = torch.tensordot(counts, torch.stack(tensors).double(), dims=1) / counts.sum()
    return mean.to(tensors[0].dtype)


def are_alike(one: NdcCheckpoint, other: NdcCheckpoint) -> bool:
    """Whether two are one network with the same heads and classes, so that their weights have a mean."""
    return one.backbone == other.backbone and replace(one.head, calibration=other.head.calibration) == other.head
