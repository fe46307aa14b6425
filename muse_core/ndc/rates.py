"""How fast what learns in fine-tuning, by the kind of backbone: nano on its own terms, ViT and ResNet on theirs.

    backbone           decoder, heads   encoder   drop path
    nano               1e-3             5e-4      0      chosen on BRCA-M2C's validation split
    ViT                1e-4             1e-5      0.1    heads: PromptNucSeg; encoder: MUSE's own fine-tuning; DINO
    ResNet and others  1e-4             4e-5      0      heads: PromptNucSeg; encoder: MUSE's own fine-tuning

Teaching goes at three tenths of these, and leaves nano's first two stages as they are; others have no such stages.

Source: https://github.com/windygoo/PromptNucSeg (AdamW 1e-4), https://github.com/alibaba-damo-academy/MUSE (1e-5 for
ViTs, 4e-5 for ResNets), https://github.com/facebookresearch/dino (drop path 0.1).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from muse_core.models.backbone import NETWORKS
from muse_core.ndc.settings import FinetuneSettings

_TAUGHT_SHARE = 0.3  # of a learning rate: what the model knows must not be washed out


@dataclass(frozen=True)
class Rates:
    """What a kind of backbone is fine-tuned with; names as in `FinetuneSettings`."""

    learning_rate: float
    encoder_rate: float
    drop_path: float
    freeze_stages: int  # where a recipe leaves it open, as that of teaching does


_NANO = Rates(1e-3, 0.5, 0.0, 2)
_VIT = Rates(1e-4, 0.1, 0.1, 0)
_OTHER = Rates(1e-4, 0.4, 0.0, 0)


def rates_for(preset: str) -> Rates:
    """The line of the table for a preset, or a timm name."""
    name = NETWORKS.get(preset, preset)
    if preset == "nano" or name.startswith(("tf_efficientnet_lite", "efficientnet_lite")):
        return _NANO
    return _VIT if name.startswith(("vit_", "deit", "eva", "beit")) else _OTHER


def taught_rates(preset: str) -> Rates:
    """The same for teaching a model that is good already."""
    found = rates_for(preset)
    return replace(found, learning_rate=_TAUGHT_SHARE * found.learning_rate)


AnyFinetuneSettings = TypeVar("AnyFinetuneSettings", bound=FinetuneSettings)


def with_rates(settings: AnyFinetuneSettings, preset: str, *, taught: bool = False) -> AnyFinetuneSettings:
    """Settings in which nothing is left to the table, or to that of teaching."""
    found = vars(taught_rates(preset) if taught else rates_for(preset))
    return settings.model_copy(update={key: value for key, value in found.items() if getattr(settings, key) is None})
