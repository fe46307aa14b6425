"""How the NDC network is fine-tuned. The defaults are the recipe of the weights that ship."""

from typing import Literal, Self

from pydantic import Field, model_validator

from muse_core.config import Settings
from muse_core.detector.augment import AugmentSettings


class ModelSettings(Settings):
    """The heads; the backbone is whatever `--init` brings."""

    spacing_px: int = Field(4, ge=4, multiple_of=4)  # of proposals; at 8 px lymphocytes that touch share one
    hidden: int = Field(128, ge=8)  # width of the heads
    kernel: Literal[1, 3, 5] = 1  # of the heads' first layer over the grid of proposals
    dropout: float = Field(0.0, ge=0, lt=1)
    dense_hidden: int = Field(64, ge=8)  # width of the dense head


class FinetuneLossSettings(Settings):
    """Weights and details of eq. 9."""

    reg: float = Field(
        2e-2, ge=0
    )  # of L_reg, px²; 5e-3 in PromptNucSeg at twice the magnification, where a µm² is 16 px², not 4
    type: float = Field(1.0, ge=0)  # of L_type
    cons: float = Field(1.0, ge=0)  # of L_cons, once it is ramped up
    dense: float = Field(1.0, ge=0)  # of heat and classes at every other pixel: more to learn from than matched points
    distance_weight: float = Field(0.1, gt=0)  # of the matching's cost, a px. Source: PromptNucSeg, prompter
    # In L_type. 0.4 (PromptNucSeg, proposals twice as far apart) leaves nuclei, one proposal in 70, 3 % of the loss.
    background_weight: float = Field(0.04, gt=0)
    class_power: float = Field(0.5, ge=0, le=1)  # 0 weighs nuclei alike, 1 classes alike
    smoothing: float = Field(0.1, ge=0, lt=1)  # of classes; annotators disagree on about one nucleus in six
    nucleus_confidence: float = Field(0.7, gt=0, lt=1)  # least of a pseudo-label that is a nucleus
    background_confidence: float = Field(0.95, gt=0, lt=1)  # least of one that is background
    # The running average says the same from step to step; the network itself (`student`) swings with each batch.
    cons_teacher: Literal["average", "student"] = "average"
    cons_start: float = Field(0.3, ge=0, le=1)  # share of the steps after which L_cons sets in: the teacher must know
    cons_ramp: float = Field(0.2, ge=0, le=1)  # share of the steps over which it ramps up
    heat_sigma_px: float = Field(3.0, gt=0)  # of a nucleus' bump in the dense task


class FinetuneSettings(Settings):
    """How fine-tuning goes; lengths are px at the network's 0.5 µm/px."""

    seed: int = 0
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(8, ge=1)
    side_px: int = Field(224, ge=64, multiple_of=32)  # of a sample; the paper: 1024, where slides are at hand
    # Of labelled samples with another's tissue beyond a straight cut: a nucleus' class must not hang on tissue far off.
    mosaic_share: float = Field(0.5, ge=0, le=1)
    unlabelled_share: float = Field(
        0.34, ge=0, le=1
    )  # samples without labels beside each labelled one, if there are any
    # These by the kind of backbone, where they are None: see `ndc.rates`.
    learning_rate: float | None = Field(None, gt=0)  # of decoder and heads, at its highest
    encoder_rate: float | None = Field(None, ge=0)  # share of it for the encoder, which has been trained before
    drop_path: float | None = Field(None, ge=0, lt=1)  # stochastic depth of the encoder, while it learns
    freeze_depthwise: bool = False  # saves a quarter of a step's time
    freeze_stages: int | None = Field(0, ge=0)  # of the encoder, besides the stem; 2 save a third of a step's time
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(40, ge=0)
    average_steps: int = Field(150, ge=1)  # the weights kept, and the teacher's, average over about so many steps
    validate_every: int = Field(100, ge=1)
    threads: int = Field(0, ge=0)  # of torch on the CPU; 0: as many as it takes
    sample_threads: int = Field(2, ge=1)  # besides, that draw the next step's samples while one is computed
    min_distance_um: float = Field(3.0, gt=0)  # of two nuclei nearer than this the less sure one goes
    model: ModelSettings = ModelSettings()
    loss: FinetuneLossSettings = FinetuneLossSettings()
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _room_for_proposals(self) -> Self:
        if self.side_px < 4 * self.model.spacing_px:
            raise ValueError(
                f"side_px {self.side_px}: at least 4 times model.spacing_px = {self.model.spacing_px} needed"
            )
        return self
