"""Student and teacher as a run's settings have them: the heads that the losses need, and what stands still."""

import os
import shutil

from torch import nn

from muse_core.errors import ConfigError
from muse_core.models.backbone import MuseBackbone, build_backbone
from muse_core.models.heads import ProjectionHead
from muse_core.pretrain.network import MuseNetwork, Student
from muse_core.pretrain.processes import Processes, averaging_gradients
from muse_core.pretrain.settings import HeadSettings, PretrainSettings
from muse_core.training.recompute import recomputed
from muse_core.training.thrift import early_stages, freeze_depthwise


def build_network(settings: PretrainSettings, processes: Processes, *, drop_path: float) -> MuseNetwork:
    """A network with the heads that the losses need, on the device of this process.

    Args:
        settings: of the run.
        processes: who trains.
        drop_path: share of residual paths that are dropped; the student alone drops any, as in DINO.
    """
    backbone = build_backbone(settings.backbone.model_copy(update={"drop_path": drop_path}))
    loss = settings.loss
    network = MuseNetwork(
        backbone,
        _head(backbone.image_channels, settings.image_head) if loss.lambda_image else None,
        _head(backbone.map_channels, settings.nucleus_head) if loss.lambda_nu else None,
    )
    if not loss.lambda_nu and backbone.decoder is not None:
        backbone.decoder.requires_grad_(False)  # nothing reaches it
    optimiser, mode = settings.optimiser, settings.batch_norm
    if optimiser.freeze_depthwise:
        freeze_depthwise(backbone.encoder)
    still = early_stages(backbone.encoder.encoder, optimiser.freeze_stages)
    if mode == "sync" or (mode == "auto" and processes.world_size > 1 and processes.device.type == "cuda"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network.to(processes.device).train()
    for module in network.modules() if mode == "frozen" else [part for stage in still for part in stage.modules()]:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return network


def _head(inputs: int, settings: HeadSettings) -> ProjectionHead:
    return ProjectionHead(
        inputs,
        settings.prototypes,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        layers=settings.layers,
        fixed_gain=settings.fixed_gain,
    )


def recompute_activations(backbone: MuseBackbone) -> None:
    """Have the encoder's blocks or stages, and the decoder, keep their inputs alone; see `recomputed`."""
    encoder = backbone.encoder.encoder
    # A lone activation of a stem would write over the input that it is to be computed from again.
    stages = [part for part in encoder.children() if isinstance(part, nn.Sequential)]
    recomputed(getattr(encoder, "blocks", stages))
    if backbone.decoder is not None:
        recomputed([backbone.decoder])


def compile_encoder(network: MuseNetwork, processes: Processes) -> None:
    """Have torch.compile make the encoder's kernels, at its first views; names of parameters stay.

    Raises:
        ConfigError: on a CPU without a C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if processes.device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"run.compile=true needs a C++ compiler on a CPU, and {compiler} is not there; set it to false"
        )
    network.backbone.encoder.compile(dynamic=False)


def heads_of(network: MuseNetwork) -> dict[str, ProjectionHead]:
    """A network's heads by the names that losses and metrics go by."""
    heads = {"image": network.image_head, "nucleus": network.nucleus_head}
    return {name: head for name, head in heads.items() if head is not None}


def n_views_decoded(settings: PretrainSettings) -> int:
    """Views that a student reads nuclei from: none, the global ones, or all."""
    if not settings.loss.lambda_nu:
        return 0
    return settings.views.n_views if _reads_local_nuclei(settings) else settings.views.global_views


def n_views_seen(settings: PretrainSettings) -> int:
    """Views that a student looks at: the global ones, or all."""
    views = settings.views
    return views.n_views if settings.loss.lambda_image or _reads_local_nuclei(settings) else views.global_views


def build_student(network: MuseNetwork, settings: PretrainSettings, processes: Processes) -> nn.Module:
    """The student up to its losses; among several processes, one whose gradients are averaged over them."""
    loss = settings.loss
    if settings.run.recompute:
        recompute_activations(network.backbone)
    student = Student(
        network,
        n_views=n_views_seen(settings),
        n_decoded=n_views_decoded(settings),
        temperature=loss.student_temperature,
        chunk_rows=loss.chunk_rows,
    )
    return averaging_gradients(student) if processes.world_size > 1 else student


def _reads_local_nuclei(settings: PretrainSettings) -> bool:
    return bool(settings.loss.lambda_nu) and settings.loss.nulo_student_views == "all"
