"""BRCA-M2C in the layout its authors publish.

images/NAME.png, labels/NAME_gt_class_coords.txt (rows `y x class`, row first), brca_ds_<split>.txt
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.images.decode import read_rgb
from muse_core.labels.patch import LabelledPatch, SlidePlace

# Source: the file readme.md of the dataset, https://github.com/TopoXLab/Dataset-BRCA-M2C
BRCA_CLASS_NAMES = ("lymphocyte", "tumour_epithelial", "stromal")
# Where a dot `y x` means: nuclei's centres (by their darkness; 15,000 lymphocytes and tumour nuclei of 74 patches) lie
# at index + (1.19, 0.94) on average, standard error 0.03; not at the middle of the pixel, index + 0.5.
BRCA_DOT_OFFSET_PX = 1.0
# Of a published name: SLIDE_x_y_width_height_f, px of level 0, whose um/px are 0.25 f.
_PUBLISHED = re.compile(r"(.+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+\.?\d*)")
BRCA_MPP = 0.5  # patches were brought from level 0 to 20x; side / level-0 side agrees with 0.5 to 0.5 %


def read_brca_m2c(root: Path, split: str) -> list[LabelledPatch]:
    """BRCA-M2C (Abousamra et al., ICCV 2021): breast, H&E, 20x, three classes. See `read_labelled_patches`."""
    return [_read_brca_patch(root, name) for name in _split_names(root / f"brca_ds_{split}.txt")]


def _split_names(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: the split's list cannot be read ({error}); give --data the dataset's folder"
        ) from None
    if not names:
        raise DatasetError(f"{path}: lists no image; a split needs at least one")
    return names


def _read_brca_patch(root: Path, name: str) -> LabelledPatch:
    image = read_rgb(root / "images" / name)
    stem = Path(name).stem
    path = root / "labels" / f"{stem}_gt_class_coords.txt"
    rows = _read_rows(path)
    xy, class_ids = rows[:, [1, 0]] + BRCA_DOT_OFFSET_PX, rows[:, 2] - 1  # row first; classes count from 1
    height, width = image.shape[:2]
    outside = (rows[:, :2] < 0).any(axis=1) | (rows[:, 0] > height) | (rows[:, 1] > width)
    if outside.any():
        raise DatasetError(
            f"{path}: dot {rows[outside][0, [1, 0]]} lies outside the {width}x{height} image; rows are y x class"
        )
    if not np.isin(class_ids, range(len(BRCA_CLASS_NAMES))).all():
        raise DatasetError(f"{path}: class {class_ids.max() + 1} found; 1 to {len(BRCA_CLASS_NAMES)} needed")
    return LabelledPatch(
        stem,
        image,
        xy.astype(np.float32),
        class_ids,
        BRCA_CLASS_NAMES,
        BRCA_MPP,
        slide_mpp=_slide_mpp(stem),
        case=_patient(stem),
        place=_place(stem),
    )


def _patient(stem: str) -> str:
    """TCGA's barcode of the patient, which begins every published name; of other names all of it."""
    found = re.match(r"TCGA-\w{2}-\w{4}", stem)
    return found[0] if found else stem


def _slide_mpp(stem: str) -> float | None:
    """The slide's µm/px: a quarter of the number that ends a published name, SLIDE_x_y_width_height_0.9824."""
    found = _PUBLISHED.fullmatch(stem)
    return 0.25 * float(found[6]) if found and float(found[6]) > 0 else None


def _place(stem: str) -> SlidePlace | None:
    """Where the patch of a published name lies; whether its numbers count from 0 or 1 nobody says, a px of level 0."""
    found = _PUBLISHED.fullmatch(stem)
    return SlidePlace(found[1], *(float(found[number]) for number in (2, 3, 4, 5))) if found else None


def _read_rows(path: Path) -> NDArray[np.int64]:
    """Rows of three integers, (N, 3); an empty file has none."""
    try:
        rows = [
            [int(word) for word in line.split()]
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except OSError as error:
        raise DatasetError(f"{path}: no label file ({error.strerror}); each image needs one") from None
    except ValueError as error:
        raise DatasetError(f"{path}: not rows of three integers y x class: {error}") from None
    if any(len(row) != 3 for row in rows):
        raise DatasetError(f"{path}: rows of three integers y x class needed")
    return np.array(rows, np.int64).reshape(-1, 3)
