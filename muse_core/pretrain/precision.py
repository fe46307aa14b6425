"""Which arithmetic a run uses, decided once for all its processes: bfloat16 pays on GPUs and on few CPUs."""

import time

import torch

from muse_core.models.backbone import MuseBackbone, standardised
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.settings import Precision

_TRIAL_PX = 96
_TRIAL_IMAGES = 8
_ROUNDS = 3


def resolved_precision(wanted: Precision, backbone: MuseBackbone, processes: Processes) -> Precision:
    """`auto` to bf16 on a GPU and to the faster of two trial steps on a CPU; anything else as it is.

    The first process tries and all do as it found: every process must ask. The backbone's batch norms and gradients are
    left as they were.
    """
    if wanted != "auto":
        return wanted
    if processes.device.type == "cuda":
        return "bf16"
    pays = processes.first and _seconds(backbone, bf16=True) < 0.9 * _seconds(backbone, bf16=False)
    return "bf16" if processes.any_of_us(pays) else "fp32"


def _seconds(backbone: MuseBackbone, *, bf16: bool) -> float:
    """The best of a few passes forward and backward on the CPU."""
    was_training, rounds = backbone.training, []
    side = -(-_TRIAL_PX // backbone.side_multiple) * backbone.side_multiple
    images = standardised(torch.zeros(_TRIAL_IMAGES, 3, side, side, dtype=torch.uint8))
    backbone.eval()  # running statistics stay
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            feature_map, _ = backbone(images)
        feature_map.float().sum().backward()
        rounds.append(time.perf_counter() - started)
    backbone.zero_grad(set_to_none=True)
    backbone.train(was_training)
    return min(rounds)
