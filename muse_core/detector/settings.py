"""Settings of the detector's training."""

from pydantic import Field

from muse_core.config import Settings
from muse_core.detector.augment import AugmentSettings
from muse_core.models.detector import STRIDE


class TrainDetectorSettings(Settings):
    """How the detector is trained. The defaults are the recipe of the weights that ship."""

    seed: int = Field(0, ge=0)
    steps: int = Field(1600, ge=1)
    batch_size: int = Field(12, ge=1)
    side_px: int = Field(208, ge=64, multiple_of=STRIDE)  # of a training picture
    learning_rate: float = Field(1e-3, gt=0)  # of the decoder, at its highest
    encoder_rate: float = Field(0.5, ge=0)  # share of it for the encoder, which has been trained before
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(40, ge=0)
    average_steps: int = Field(200, ge=1)  # the weights kept are an average over about so many steps
    sigma_px: float = Field(2.5, gt=0)  # of a nucleus' bump, at 0.5 µm/px
    near_weight: float = Field(4.0, ge=0)  # a pixel at a nucleus' centre counts 1 + this
    class_weight: float = Field(0.2, ge=0)  # of the auxiliary class loss
    validate_every: int = Field(200, ge=1)
    imagenet: bool = True  # start the encoder from ImageNet weights
    threads: int = Field(0, ge=0)  # 0: as many as torch takes by itself
    min_distance_um: float = Field(3.0, gt=0)  # nuclei nearer than this are one
    augment: AugmentSettings = AugmentSettings()
