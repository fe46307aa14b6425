"""What the paper reports for table 3: mean class F1 in percent on the datasets' test splits.

Source: MUSE, AAAI 2026, https://arxiv.org/abs/2511.05170, table 3.
"""

from dataclasses import dataclass

_MEAN_CLASS_F1: dict[str, dict[str, float]] = {
    "brca-m2c": {
        "MCSpatNet": 65.46,
        "PointNu-Net": 66.50,
        "SMILE": 67.75,
        "SENC": 61.29,
        "CGT": 60.95,
        "CellViT": 65.73,
        "DPA-P2PNet": 64.06,
        "LFoV-MUSE ViT-B/16": 71.70,
    },
    "ocelot": {
        "MCSpatNet": 64.29,
        "PointNu-Net": 61.84,
        "SMILE": 63.55,
        "SENC": 66.05,
        "CGT": 65.03,
        "CellViT": 63.79,
        "DPA-P2PNet": 64.99,
        "LFoV-MUSE ViT-B/16": 73.29,
    },
    "puma": {
        "MCSpatNet": 70.61,
        "PointNu-Net": 69.52,
        "SMILE": 70.14,
        "SENC": 71.09,
        "CGT": 70.14,
        "CellViT": 72.73,
        "DPA-P2PNet": 70.90,
        "LFoV-MUSE ViT-B/16": 76.30,
    },
}


@dataclass(frozen=True)
class PublishedNdc:
    """One row of table 3: mean class F1 in percent on the test split."""

    method: str
    mean_class_f1: float


def published_ndc(dataset: str) -> list[PublishedNdc]:
    """The paper's column for a dataset, in the paper's order; empty where it has none."""
    return [PublishedNdc(method, value) for method, value in _MEAN_CLASS_F1.get(dataset, {}).items()]
