"""How many ROIs fit into the memory found: what a forward pass keeps for its backward pass is counted, not guessed.

Whatever autograd keeps goes by the hooks that count it, on a CPU as on a GPU, so that one and two drawn ROIs tell what
each further one costs. Weights, their gradients and AdamW's two averages come on top.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from muse_core.machine.limits import memory_limit_bytes
from muse_core.pretrain.assembly import (
    build_network,
    heads_of,
    n_views_decoded,
    n_views_seen,
    recompute_activations,
)
from muse_core.pretrain.network import MuseNetwork
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.training.losses.nucleus import matched_nuclei, nucleus_rows, pair_weights

_USED = 0.8  # of the memory that is free: the rest is for the backward pass's own pictures and for fragments
_BYTES_A_WEIGHT = 4 * (2 + 1 + 2)  # student and teacher, gradient, AdamW's averages
_LOGITS = 4  # pictures of a chunk of logits in memory at once


def micro_batches(settings: PretrainSettings, views: ViewSettings, processes: Processes) -> int:
    """The fewest micro-batches a step that fit into the memory of every process; every process must ask.

    Args:
        settings: of the run.
        views: of the phase.
        processes: who trains; `batch_size` is shared out among them evenly.
    """
    mine = settings.batch_size // processes.world_size
    fixed, each = step_bytes(settings, views, processes.device)
    fitting = max(1, int((_USED * free_bytes(processes.device) - fixed) // each))
    needed = next(count for count in range(1, mine + 1) if mine % count == 0 and mine // count <= fitting)
    return processes.most(needed)


def step_bytes(settings: PretrainSettings, views: ViewSettings, device: torch.device) -> tuple[int, int]:
    """Bytes that a step takes whatever its size, and those that each ROI at once adds."""
    bare = settings.backbone.model_copy(update={"imagenet": False, "init": ""})
    still = {"freeze_stages": 0, "freeze_depthwise": False}  # counted as if it learned: random weights may not stand
    drawn = settings.model_copy(
        update={"backbone": bare, "views": views, "optimiser": settings.optimiser.model_copy(update=still)}
    )
    network = build_network(drawn, Processes(0, 1, device), drop_path=0.0)
    if settings.run.recompute:
        recompute_activations(network.backbone)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        one, two = (_kept_bytes(network, drawn, rois, device) for rois in (1, 2))
    weights = _BYTES_A_WEIGHT * sum(parameter.numel() for parameter in network.parameters())
    prototypes = max(head.n_prototypes for head in heads_of(network).values())
    logits = 4 * _LOGITS * prototypes * settings.loss.chunk_rows
    if device.type == "cuda":
        del network
        torch.cuda.empty_cache()
    each = max(1, two - one)
    return weights + logits + max(0, one - each), each


def free_bytes(device: torch.device) -> int:
    """Of the GPU; of a CPU's memory, the share that each of the processes on this machine may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(memory_limit_bytes(), int(psutil.virtual_memory().available)) // here


def _kept_bytes(network: MuseNetwork, settings: PretrainSettings, rois: int, device: torch.device) -> int:
    """Bytes that the student's forward pass keeps on drawn ROIs, as many nuclei in each as may be, with its targets."""
    views, loss = settings.views, settings.loss
    batch = _drawn(views, rois, device)
    matched = matched_nuclei(batch.valid, n_global=views.global_views, student_views=loss.nulo_student_views)
    rows = nucleus_rows(matched, pair_weights(matched.sum(dim=2)))
    with _counted(network) as kept:
        network(
            batch,
            rows.student_view,
            rows.student_nucleus,
            n_views=n_views_seen(settings),
            n_decoded=n_views_decoded(settings),
        )
    targets = {"image": views.global_views * rois, "nucleus": len(rows.teacher_view)}
    said = sum(2 * 4 * targets[name] * head.n_prototypes for name, head in heads_of(network).items())  # logits, shares
    pixels = batch.global_images.numel() + batch.local_images.numel()
    return sum(kept.values()) + said + pixels


@contextmanager
def _counted(network: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each memory block that autograd keeps meanwhile, but for the network's own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # else a block that is let go would be counted in the place of another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _drawn(views: ViewSettings, rois: int, device: torch.device) -> ViewBatch:
    """Black views of ROIs that share all their nuclei, at their middle."""
    nuclei = rois * views.max_nuclei
    sides = torch.tensor([views.side_px(view) for view in range(views.n_views)], dtype=torch.float32)
    return ViewBatch(
        global_images=torch.zeros(views.global_views, rois, 3, views.global_px, views.global_px, dtype=torch.uint8),
        local_images=torch.zeros(views.local_views, rois, 3, views.local_px, views.local_px, dtype=torch.uint8),
        xy=(sides / 2)[:, None, None].expand(-1, nuclei, 2).contiguous(),
        valid=torch.ones(views.n_views, nuclei, dtype=torch.bool),
        image_index=torch.arange(rois).repeat_interleave(views.max_nuclei),
        roi_ids=["drawn"] * rois,
        slide_ids=["drawn"] * rois,
    ).to(device)
