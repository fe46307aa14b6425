"""NDC checkpoints of networks whose weights are random: for what does not depend on their answers being right."""

from pathlib import Path

import torch

from muse_core.models.backbone import BackboneSettings
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, save_checkpoint
from muse_core.ndc.head import NdcHead
from tests.data.make_patches import CLASS_NAMES


def write_random_ndc(path: Path, *, seed: int = 0, class_names: tuple[str, ...] = CLASS_NAMES) -> Path:
    """A checkpoint of the smallest backbone there is."""
    backbone, head = BackboneSettings(preset="test_efficientnet"), NdcHead(class_names, hidden=8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_net(backbone, head)
        torch.nn.init.normal_(net.h_dense[-2].weight)  # heat that differs from place to place
        save_checkpoint(NdcCheckpoint(net, backbone, head, {}), path)
    return path
