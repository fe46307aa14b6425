"""CoNSeP: `Train/Images/train_1.png`, `Train/Labels/train_1.mat`, and `Test` likewise."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from muse_core.errors import DatasetError
from muse_core.images.decode import read_rgb
from muse_core.labels.masks import middles
from muse_core.labels.patch import LabelledPatch

CONSEP_MPP = 0.25  # 40x
CONSEP_CLASS_NAMES = ("inflammatory", "epithelial", "spindle", "other")
# Of the numbers 1..7 in the files: other, inflammatory, healthy epithelial, malignant epithelial, fibroblast, muscle,
# endothelial.
# Source: README of the release; the authors join them into four in their paper (Graham et al., MedIA 58, 2019).
_CLASS_OF_TYPE = np.array([-1, 3, 0, 1, 1, 2, 2, 2])
_VALIDATES = 5  # every so-manieth training image


def read_consep(root: Path, split: str) -> list[LabelledPatch]:
    """CoNSeP (Graham et al., MedIA 2019): colon, H&E, 0.25 µm/px, four classes.

    The release has `Train` and `Test`; every fifth training image validates. See `read_labelled_patches`.
    """
    folder = root / ("Test" if split == "test" else "Train")
    paths = sorted((folder / "Images").glob("[!.]*.png"), key=_number)
    if not paths:
        raise DatasetError(f"{folder / 'Images'}: no .png in it; give --data the folder that holds Train and Test")
    if split != "test":
        paths = [path for index, path in enumerate(paths) if (index % _VALIDATES == _VALIDATES - 1) == (split == "val")]
    return [_read_patch(path, folder / "Labels" / f"{path.stem}.mat") for path in paths]


def _number(path: Path) -> int:
    found = re.search(r"(\d+)$", path.stem)
    return int(found[1]) if found else 0


def _read_patch(path: Path, labels: Path) -> LabelledPatch:
    image = read_rgb(path)
    instances, types = _read_labels(labels, image.shape[:2])
    xy, numbers = middles(instances)
    ids = _CLASS_OF_TYPE[types[numbers - 1]]
    return LabelledPatch(path.stem, image, xy, ids, CONSEP_CLASS_NAMES, CONSEP_MPP)


def _read_labels(path: Path, size: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The mask of instances (H, W), and the type, 1..7, of instance n in row n - 1.

    Raises:
        DatasetError: no such file, not MATLAB's, without `inst_map` and `inst_type`, or these do not fit each other.
    """
    try:
        content = loadmat(path, variable_names=("inst_map", "inst_type"))
    except OSError as error:
        raise DatasetError(f"{path}: no labels ({error.strerror or error}); is --data the dataset's folder?") from None
    except (MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a MATLAB file that can be read: {error}") from None
    if not {"inst_map", "inst_type"} <= content.keys():
        raise DatasetError(f"{path}: needs inst_map and inst_type; {', '.join(sorted(content))} found")
    instances, types = np.asarray(content["inst_map"], np.int64), np.asarray(content["inst_type"], np.int64).ravel()
    if instances.shape != tuple(size):
        raise DatasetError(f"{path}: inst_map of shape {instances.shape}; {size[0]}x{size[1]}, as its image, needed")
    if instances.max(initial=0) > len(types):
        raise DatasetError(f"{path}: inst_map names nucleus {instances.max()}, inst_type has {len(types)}")
    if len(types) and not (types.min() >= 1 and types.max() < len(_CLASS_OF_TYPE)):
        raise DatasetError(
            f"{path}: inst_type from {types.min()} to {types.max()}; 1 to {len(_CLASS_OF_TYPE) - 1} needed"
        )
    return instances, types
