"""What the paper reports, in percent on the datasets' test splits: accuracy (tables 1 and 2), mean class F1 (table 3).

Source: MUSE, AAAI 2026, https://arxiv.org/abs/2511.05170, tables 1 to 3; the supervised ResNet-50 from the README of
https://github.com/alibaba-damo-academy/MUSE.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

ScoreKind = Literal["knn", "linear", "finetune"]

# Columns of tables 1 and 2: dataset and µm/px.
COLUMNS: tuple[tuple[str, float], ...] = (
    ("brca-m2c", 0.5),
    ("ocelot", 0.5),
    ("puma", 0.5),
    ("brca-m2c", 0.25),
    ("ocelot", 0.25),
    ("puma", 0.25),
)

_Cells = tuple[float, float, float, float, float, float]


class _Row(NamedTuple):
    """A method's accuracies, by how they were scored."""

    knn: _Cells
    linear: _Cells
    finetune: _Cells


_ACCURACY: dict[str, _Row] = {
    "Supervised ResNet-50": _Row(
        knn=(73.29, 72.57, 73.57, 74.79, 70.61, 73.81),
        linear=(72.04, 75.38, 76.52, 69.86, 73.38, 76.72),
        finetune=(72.19, 75.49, 74.57, 71.43, 74.22, 71.72),
    ),
    "DINO ResNet-50": _Row(
        knn=(76.29, 73.00, 74.04, 75.37, 70.72, 74.06),
        linear=(75.91, 78.39, 75.14, 72.06, 73.23, 76.71),
        finetune=(73.94, 75.47, 72.76, 72.22, 75.75, 76.84),
    ),
    "DINO ViT-S/16": _Row(
        knn=(77.25, 71.94, 70.22, 77.78, 70.72, 71.29),
        linear=(69.86, 74.52, 73.42, 73.89, 73.88, 75.19),
        finetune=(77.85, 81.76, 78.36, 82.33, 80.37, 78.80),
    ),
    "DINO ViT-B/16": _Row(
        knn=(78.03, 73.11, 71.40, 76.28, 72.30, 72.86),
        linear=(77.09, 76.83, 76.80, 74.59, 76.92, 78.43),
        finetune=(77.20, 80.61, 78.76, 80.12, 81.37, 80.36),
    ),
    "MAE ViT-B/16": _Row(
        knn=(65.45, 67.04, 61.79, 67.45, 66.18, 64.14),
        linear=(73.54, 77.34, 76.16, 71.92, 76.17, 76.70),
        finetune=(76.78, 78.46, 77.83, 77.56, 81.38, 77.27),
    ),
    "iBOT ViT-S/16": _Row(
        knn=(77.67, 74.70, 71.32, 78.00, 72.42, 71.18),
        linear=(78.61, 78.01, 76.59, 78.44, 76.58, 76.57),
        finetune=(80.33, 80.40, 77.82, 81.34, 81.45, 80.73),
    ),
    "iBOT ViT-B/16": _Row(
        knn=(79.06, 76.66, 71.09, 80.63, 74.86, 73.34),
        linear=(76.20, 77.54, 76.35, 79.97, 78.85, 78.21),
        finetune=(79.57, 82.48, 77.93, 82.48, 82.17, 79.07),
    ),
    "DINOv2 ViT-S/14": _Row(
        knn=(80.27, 76.77, 69.55, 78.80, 77.35, 73.26),
        linear=(78.49, 76.79, 75.93, 74.95, 78.37, 78.06),
        finetune=(82.39, 80.13, 79.66, 81.72, 79.13, 81.55),
    ),
    "DINOv2 ViT-B/14": _Row(
        knn=(79.11, 75.25, 68.81, 80.12, 76.06, 73.50),
        linear=(78.96, 78.22, 76.09, 74.68, 79.28, 79.45),
        finetune=(84.39, 81.66, 80.66, 85.02, 79.37, 82.93),
    ),
    "MoCo v2 ResNet-50 (Kang et al.)": _Row(
        knn=(79.37, 76.83, 74.52, 78.23, 78.03, 75.48),
        linear=(81.90, 79.31, 78.92, 80.65, 81.46, 79.55),
        finetune=(80.71, 82.17, 79.60, 79.27, 82.20, 79.90),
    ),
    "DINO ViT-S/16 (Kang et al.)": _Row(
        knn=(84.31, 82.06, 76.69, 80.55, 78.42, 76.20),
        linear=(80.85, 83.61, 79.89, 82.15, 82.58, 80.61),
        finetune=(83.63, 85.30, 81.92, 84.30, 84.44, 81.13),
    ),
    "DINOv2 ViT-S/16 on TCGA_nu": _Row(
        knn=(78.56, 75.44, 71.94, 77.08, 73.98, 71.74),
        linear=(80.61, 82.17, 77.53, 81.85, 80.87, 77.85),
        finetune=(81.71, 83.65, 79.08, 83.34, 83.04, 79.13),
    ),
    "DINOv2 ViT-B/16 on TCGA_nu": _Row(
        knn=(77.90, 75.22, 72.06, 77.73, 74.13, 71.17),
        linear=(82.21, 83.25, 78.26, 82.35, 81.98, 78.88),
        finetune=(83.60, 82.87, 79.00, 84.25, 82.71, 79.10),
    ),
    "CHIEF": _Row(
        knn=(78.39, 80.21, 74.17, 75.71, 73.76, 73.73),
        linear=(78.89, 81.88, 76.90, 78.05, 78.13, 75.49),
        finetune=(79.52, 82.77, 77.69, 79.77, 81.42, 76.11),
    ),
    "CTransPath": _Row(
        knn=(80.39, 80.07, 74.89, 77.73, 73.77, 73.62),
        linear=(78.80, 81.47, 76.56, 77.43, 77.52, 76.13),
        finetune=(80.12, 82.92, 77.83, 79.87, 81.07, 78.15),
    ),
    "CONCH": _Row(
        knn=(86.68, 88.08, 81.95, 86.71, 86.00, 83.05),
        linear=(85.13, 86.41, 82.02, 86.20, 83.80, 83.66),
        finetune=(86.09, 87.12, 82.52, 87.93, 86.32, 84.80),
    ),
    "UNI": _Row(
        knn=(87.65, 87.35, 82.21, 88.82, 85.90, 81.95),
        linear=(86.99, 86.17, 82.37, 88.64, 85.72, 83.49),
        finetune=(87.12, 87.72, 83.04, 88.95, 87.26, 84.84),
    ),
    "Prov-GigaPath": _Row(
        knn=(86.44, 86.99, 80.24, 86.49, 83.59, 79.90),
        linear=(85.99, 87.50, 81.79, 87.66, 83.80, 81.83),
        finetune=(86.99, 88.13, 83.46, 88.00, 86.03, 83.04),
    ),
    "MUSE ResNet-50": _Row(
        knn=(88.37, 85.51, 81.21, 85.78, 83.49, 78.60),
        linear=(88.14, 85.57, 81.53, 87.39, 83.65, 80.64),
        finetune=(86.29, 86.30, 81.69, 88.26, 84.85, 80.42),
    ),
    "MUSE ViT-S/16": _Row(
        knn=(86.88, 86.13, 80.00, 87.67, 85.45, 79.71),
        linear=(87.79, 85.42, 81.34, 89.66, 85.20, 80.17),
        finetune=(86.40, 86.21, 83.09, 88.56, 86.40, 80.79),
    ),
    "MUSE ViT-B/16": _Row(
        knn=(87.56, 85.90, 81.26, 88.11, 85.55, 81.19),
        linear=(89.60, 85.82, 83.29, 88.86, 85.57, 82.48),
        finetune=(88.43, 86.03, 84.18, 89.60, 86.87, 82.46),
    ),
    "LFoV-MUSE ResNet-50": _Row(
        knn=(89.53, 86.21, 82.21, 87.44, 85.18, 79.88),
        linear=(90.18, 86.19, 83.85, 88.86, 85.78, 82.76),
        finetune=(88.70, 87.87, 84.49, 89.74, 85.17, 82.62),
    ),
    "LFoV-MUSE ViT-S/16": _Row(
        knn=(85.47, 84.17, 79.15, 86.00, 84.95, 79.82),
        linear=(87.06, 87.21, 84.22, 86.63, 86.57, 83.53),
        finetune=(86.29, 87.54, 83.81, 86.59, 88.01, 84.56),
    ),
    "LFoV-MUSE ViT-B/16": _Row(
        knn=(89.03, 87.38, 81.11, 88.93, 85.52, 83.16),
        linear=(89.20, 86.10, 84.36, 90.18, 86.43, 85.12),
        finetune=(89.29, 87.05, 84.84, 90.26, 87.87, 85.74),
    ),
}

_NDC_DATASETS = ("brca-m2c", "ocelot", "puma")  # columns of table 3
_MEAN_CLASS_F1: dict[str, tuple[float, float, float]] = {
    "MCSpatNet": (65.46, 64.29, 70.61),
    "PointNu-Net": (66.50, 61.84, 69.52),
    "SMILE": (67.75, 63.55, 70.14),
    "SENC": (61.29, 66.05, 71.09),
    "CGT": (60.95, 65.03, 70.14),
    "CellViT": (65.73, 63.79, 72.73),
    "DPA-P2PNet": (64.06, 64.99, 70.90),
    "LFoV-MUSE ViT-B/16": (71.70, 73.29, 76.30),
}


@dataclass(frozen=True)
class PublishedScore:
    """One cell of tables 1 and 2: accuracy in percent on the test split."""

    method: str
    accuracy: float


@dataclass(frozen=True)
class PublishedNdc:
    """One cell of table 3: mean class F1 in percent on the test split."""

    method: str
    mean_class_f1: float


def published_scores(kind: ScoreKind, dataset: str, mpp: float) -> list[PublishedScore]:
    """The paper's column for a dataset at a scale, in the paper's order; empty where it has none."""
    if (dataset, mpp) not in COLUMNS:
        return []
    column = COLUMNS.index((dataset, mpp))
    return [PublishedScore(method, getattr(row, kind)[column]) for method, row in _ACCURACY.items()]


def published_ndc(dataset: str) -> list[PublishedNdc]:
    """The paper's column of table 3 for a dataset, in the paper's order; empty where it has none."""
    if dataset not in _NDC_DATASETS:
        return []
    column = _NDC_DATASETS.index(dataset)
    return [PublishedNdc(method, cells[column]) for method, cells in _MEAN_CLASS_F1.items()]
