"""How a backbone is pretrained.

The defaults are the paper's where it speaks and DINO's or ours where it does not; recipes in `recipes/` set sizes and
lengths of runs. `muse-nano`, the recipe of the weights that ship, is taken where none is named.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from muse_core.config import Settings, load_settings
from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.training.losses.nucleus import StudentViews

Precision = Literal["auto", "fp32", "bf16"]
DEFAULT_RECIPE = "muse-nano"

TeacherMode = Literal["centre", "sinkhorn"]
BatchNormMode = Literal["auto", "local", "sync", "frozen"]


class HeadSettings(Settings):
    """A projection head. MUSE gives no sizes; DINO's are 65,536 prototypes, 2048 hidden, 256 bottleneck."""

    prototypes: int = Field(2048, ge=2)
    hidden: int = Field(512, ge=1)
    bottleneck: int = Field(128, ge=1)
    layers: int = Field(3, ge=1)
    fixed_gain: bool = True  # DINO's norm_last_layer


class PretrainLossSettings(Settings):
    """What is minimised: lambda_image * L_image + lambda_nu * L_nu, equation 7 of MUSE."""

    lambda_image: float = Field(1.0, ge=0)  # MUSE; 0 leaves L_image and its head out (table 6)
    lambda_nu: float = Field(1.0, ge=0)  # MUSE; 0 leaves L_nu, its head and the decoder out (table 6)
    nulo_student_views: StudentViews = "all"  # MUSE says "each paired views"; global spares the decoder on local ones
    student_temperature: float = Field(0.1, gt=0)  # DINO
    teacher_temperature: float = Field(0.04, gt=0)  # DINO, at the start
    teacher_temperature_end: float = Field(0.07, gt=0)  # DINO's ViT-S and ViT-B runs
    teacher_temperature_warmup: float = Field(0.3, ge=0, le=1)  # share of the run; DINO: 30 of 100 epochs
    teacher: TeacherMode = "centre"  # DINO, and by its lineage MUSE; sinkhorn for short runs on little data
    centre_momentum: float = Field(0.9, ge=0, lt=1)  # DINO
    chunk_rows: int = Field(4096, ge=1)  # rows of logits in memory at once


class OptimiserSettings(Settings):
    """AdamW and the teacher's average. Shares are of the run."""

    learning_rate: float = Field(5e-4, gt=0)  # at its highest, for 256 ROIs a step, linear in the batch; DINO
    final_learning_rate: float = Field(1e-6, ge=0)  # not scaled; DINO
    encoder_rate: float = Field(1.0, ge=0)  # share of the rate for the encoder; below 1 where it starts from ImageNet
    warmup: float = Field(0.1, ge=0, lt=1)  # DINO: 10 of 100 epochs
    weight_decay: float = Field(0.04, ge=0)  # at the start; none on biases and norms; DINO
    final_weight_decay: float = Field(0.4, ge=0)  # DINO
    clip: float = Field(3.0, ge=0)  # norm of each tensor's gradient, not of all together; 0 for none; DINO
    freeze_last_layer: float = Field(0.01, ge=0, le=1)  # share in which the prototypes stand still; DINO: first epoch
    momentum: float = Field(0.996, ge=0, le=1)  # of the teacher at the start, 1 at the end; DINO
    # Of an encoder that starts from ImageNet; a step on two CPU cores then takes less than half of the time.
    freeze_depthwise: bool = False  # kernels of depthwise convolutions stay as they are
    freeze_stages: int = Field(0, ge=0)  # so do the stem and so many stages of an EfficientNet, norms included


class Phase(Settings):
    """A part of a run with views of its own size: MUSE grows from 224/96 to 512/208 px."""

    until: float = Field(gt=0, le=1)  # share of the run at which it ends
    global_px: int = Field(ge=32)
    local_px: int = Field(ge=32)
    accumulate: int = Field(1, ge=0)  # micro-batches a step, 0 for as few as fit: larger views need smaller ones


class RunSettings(Settings):
    """What changes how fast a run goes and what it tells, not what comes out; may differ when a run is resumed."""

    threads: int = Field(0, ge=0)  # of torch on the CPU; 0: as many as it takes by itself
    # Processes a rank that cut views; 0 cuts them in the training process; auto: beside a GPU, as many as it has cores.
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    compile: bool = False  # torch.compile the encoders: minutes at first, pays in long runs on GPUs
    recompute: bool = False  # forget activations and compute them again: less memory, more time
    log_every: int = Field(10, ge=1)  # steps
    checkpoint_minutes: float = Field(5.0, ge=0)
    keep_checkpoints: int = Field(2, ge=1)  # the newest and those before it
    keep_teachers: int = Field(0, ge=0)  # a teacher's backbone each so many epochs, in teachers/; 0 keeps none
    most_skipped: int = Field(5, ge=0)  # steps in a row that may be skipped for numbers that are not finite
    changed_dataset: bool = False  # go on although parts of --rois were added, removed or built again


class ProbeSettings(Settings):
    """Nearest neighbours on labelled nuclei now and then, to be seen in the curves; nothing is learned from them."""

    dataset: str = ""  # a name that `muse evaluate knn --dataset` takes; empty for no probe
    data: Path = Path()  # its folder
    every: int = Field(500, ge=1)  # steps; the last step is probed, too
    tiles: int = Field(64, ge=1)  # of 224 px, at most, of each of train and val
    mpp: float = Field(0.5, gt=0)  # µm/px of the tiles
    k: int = Field(20, ge=1)  # neighbours


class PretrainSettings(Settings):
    """A pretraining run."""

    seed: int = Field(0, ge=0)
    epochs: float = Field(100.0, gt=0)  # DINO
    steps: int = Field(0, ge=0)  # 0: as many as the epochs make
    batch_size: int = Field(16, ge=1)  # ROIs a step, over all processes
    accumulate: int = Field(1, ge=0)  # micro-batches a step and process, in turn; 0: as few as fit into the memory here
    precision: Precision = "auto"  # auto: bf16 on a GPU; on a CPU what a trial step finds faster
    batch_norm: BatchNormMode = "auto"  # auto: sync between GPUs; frozen: ImageNet's statistics, in student and teacher
    # µm/px at which channels of the exported map get mean 0 and deviation 1 over nuclei; 0 leaves the map as trained.
    standardised_at_mpp: float = Field(0.0, ge=0)
    backbone: BackboneSettings = BackboneSettings(imagenet=True)
    views: ViewSettings = ViewSettings(local_views=4)
    image_head: HeadSettings = HeadSettings()
    nucleus_head: HeadSettings = HeadSettings()
    loss: PretrainLossSettings = PretrainLossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    phases: tuple[Phase, ...] = ()  # empty: one, of the sizes that `views` has
    run: RunSettings = RunSettings()
    probe: ProbeSettings = ProbeSettings()

    @model_validator(mode="after")
    def _makes_sense(self) -> "PretrainSettings":
        if not (self.loss.lambda_image or self.loss.lambda_nu):
            raise ValueError("lambda_image and lambda_nu are both 0; nothing is left to learn")
        still = self.optimiser.freeze_stages or self.optimiser.freeze_depthwise
        if still and not (self.backbone.imagenet or self.backbone.init):
            raise ValueError(
                "optimiser.freeze_stages or freeze_depthwise without backbone.imagenet or backbone.init "
                "would keep random weights; set "
                "freeze_stages=0 and freeze_depthwise=false"
            )
        ends = [phase.until for phase in self.phases]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ValueError(f"phases end at {ends}; needs ascending shares of the run, the last 1")
        return self

    def views_at(self, progress: float) -> tuple[ViewSettings, int]:
        """View settings and micro-batches a step at 0 <= progress < 1 of the run."""
        for phase in self.phases:
            if progress < phase.until:
                sizes = {"global_px": phase.global_px, "local_px": phase.local_px}
                return self.views.model_copy(update=sizes), phase.accumulate
        return self.views, self.accumulate


def load_pretrain_settings(config: Path | None, overrides: list[str]) -> PretrainSettings:
    """Settings of a TOML file or of one of the recipes that ship, by name, with `key=value` overrides.

    Args:
        config: the file or name; None for `muse-nano`.
        overrides: single settings.

    Raises:
        ConfigError: neither a file nor a name, or a setting that makes no sense.
    """
    if config is None:
        config = shipped_recipes()[DEFAULT_RECIPE]
    if not config.exists():
        shipped = shipped_recipes()
        if str(config) not in shipped:
            raise ConfigError(f"config {config}: no such file, and no recipe that ships ({', '.join(shipped)})")
        config = shipped[str(config)]
    return load_settings(PretrainSettings, config, overrides)


def shipped_recipes() -> dict[str, Path]:
    """Name and file of each recipe that ships."""
    folder = Path(str(files("muse_core.pretrain"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
