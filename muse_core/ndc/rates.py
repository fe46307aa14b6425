"""How fast what learns in fine-tuning, by the kind of backbone: nano on its own terms, ViT and ResNet on theirs.

    backbone           decoder, heads   encoder   drop path
    nano               1e-3             5e-4      0      chosen on BRCA-M2C's validation split
    ViT                1e-4             1e-5      0.1    heads: PromptNucSeg; encoder: MUSE's own fine-tuning; DINO
    ResNet and others  1e-4             4e-5      0      heads: PromptNucSeg; encoder: MUSE's own fine-tuning

Source: https://github.com/windygoo/PromptNucSeg (AdamW 1e-4), https://github.com/alibaba-damo-academy/MUSE (1e-5 for
ViTs, 4e-5 for ResNets), https://github.com/facebookresearch/dino (drop path 0.1).
"""

from dataclasses import dataclass

from muse_core.models.backbone import NETWORKS
from muse_core.ndc.settings import FinetuneSettings


@dataclass(frozen=True)
class Rates:
    """What a kind of backbone is fine-tuned with; names as in `FinetuneSettings`."""

    learning_rate: float
    encoder_rate: float
    drop_path: float


_NANO = Rates(1e-3, 0.5, 0.0)
_VIT = Rates(1e-4, 0.1, 0.1)
_OTHER = Rates(1e-4, 0.4, 0.0)


def rates_for(preset: str) -> Rates:
    """The line of the table for a preset, or a timm name."""
    name = NETWORKS.get(preset, preset)
    if preset == "nano" or name.startswith(("tf_efficientnet_lite", "efficientnet_lite")):
        return _NANO
    return _VIT if name.startswith(("vit_", "deit", "eva", "beit")) else _OTHER


def with_rates(settings: FinetuneSettings, preset: str) -> FinetuneSettings:
    """Settings in which nothing is left to the table."""
    found = vars(rates_for(preset))
    return settings.model_copy(update={key: value for key, value in found.items() if getattr(settings, key) is None})
