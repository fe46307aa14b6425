"""One network whose weights are the mean of several's, each trained on from another: as good as any, and steadier.

Source: Wortsman et al., Model soups, ICML 2022, https://arxiv.org/abs/2203.05482
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from muse_core.errors import ConfigError
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint


def mean_of(paths: Sequence[Path]) -> NdcCheckpoint:
    """A checkpoint with the mean of the tensors of several, not calibrated; the rest is the last one's.

    Args:
        paths: checkpoints of `muse finetune` with the same backbone, heads and classes.

    Raises:
        ConfigError: fewer than two, one that is no such file, or one of another network or other classes.
    """
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} checkpoints: two or more needed for a mean")
    all_of = [load_checkpoint(path) for path in paths]
    last = all_of[-1]
    for path, one in zip(paths, all_of, strict=True):
        if one.backbone != last.backbone or replace(one.head, calibration=last.head.calibration) != last.head:
            raise ConfigError(f"{path}: another backbone, other heads or classes than {paths[-1]}; one kind needed")
    states = [one.net.state_dict() for one in all_of]
    net = build_net(last.backbone, last.head)
    net.load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(0) if tensor.is_floating_point() else tensor
            for name, tensor in states[-1].items()
        }
    )
    notes = {
        "mean_of": ", ".join(one.notes.get("settings", path.name) for path, one in zip(paths, all_of, strict=True))
    }
    return NdcCheckpoint(net.eval(), last.backbone, last.head, notes)
