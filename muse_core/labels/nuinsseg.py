"""NuInsSeg: a folder an organ, in it `tissue images/NAME.png`, `label masks modify/NAME.tif` and `vague areas`."""

import re
from pathlib import Path

import numpy as np

from muse_core.errors import ConfigError, DatasetError
from muse_core.images.decode import read_rgb
from muse_core.labels.masks import middles, read_mask
from muse_core.labels.patch import UNKNOWN_CLASS, LabelledPatch

# Not published. The camera and objective suggest 0.16, one loader takes 0.25; nuclei are as large as elsewhere at 0.2.
NUINSSEG_MPP = 0.2
_VALIDATES = 5  # every so-manieth organ
_IMAGES, _LABELS, _VAGUE = "tissue images", "label masks modify", "vague areas/mask binary"


def read_nuinsseg(root: Path, split: str) -> list[LabelledPatch]:
    """NuInsSeg (Mahbod et al., Scientific Data 2024): 31 organs of human and mouse, H&E, nuclei without classes.

    No split is published, and images of an organ share slides: every fifth organ validates. Where annotators were not
    sure (`vague areas`), nothing is known. See `read_labelled_patches`.
    """
    organs = sorted((folder.parent for folder in root.glob(f"*/{_IMAGES}")), key=lambda folder: folder.name)
    if not organs:
        raise DatasetError(f"{root}: no folder with '{_IMAGES}' in it; give --data the folder that holds the organs")
    if split == "test":
        raise ConfigError(f"{root}: NuInsSeg publishes no test split; give train or val")
    chosen = [organ for index, organ in enumerate(organs) if (index % _VALIDATES == _VALIDATES - 1) == (split == "val")]
    return [
        _read_patch(organ, path)
        for organ in chosen
        for path in sorted((organ / _IMAGES).glob("[!.]*.png"), key=lambda path: _by_number(path.stem))
    ]


def _read_patch(organ: Path, path: Path) -> LabelledPatch:
    image = read_rgb(path)
    xy, _ = middles(read_mask(organ / _LABELS / f"{path.stem}.tif", image.shape))
    vague = organ / _VAGUE / path.name
    annotated = read_mask(vague, image.shape) == 0 if vague.exists() else None
    if annotated is not None and len(xy):
        columns, rows = xy.astype(int).T
        xy = xy[annotated[rows, columns]]
    ids = np.full(len(xy), UNKNOWN_CLASS, np.int64)
    return LabelledPatch(path.stem, image, xy, ids, (), NUINSSEG_MPP, case=organ.name, annotated=annotated)


def _by_number(name: str) -> tuple[str | int, ...]:
    """Sorts image_2 before image_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
