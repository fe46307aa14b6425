"""OCELOT 1.0.1: `metadata.json`, `images/<split>/cell/ID.jpg`, `annotations/<split>/cell/ID.csv` (rows `x,y,label`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.images.decode import read_rgb
from muse_core.images.plausible_mpp import LABELLED_MPP
from muse_core.labels.patch import LabelledPatch, SlidePlace

# Labels 1 (BC, background) and 2 (TC, tumour). Source: https://lunit-io.github.io/research/ocelot_dataset
OCELOT_CLASS_NAMES = ("other", "tumour")
OCELOT_DOT_OFFSET_PX = 0.5  # dots are whole px 0..1023: the middle of that pixel


def read_ocelot(root: Path, split: str) -> list[LabelledPatch]:
    """OCELOT (Ryu et al., CVPR 2023): six organs, H&E, 0.2 µm/px, two classes. See `read_labelled_patches`."""
    path = root / "metadata.json"
    pairs = _read_pairs(path)
    names = sorted(name for name, pair in pairs.items() if _entry(pair, "subset", f"{path}: {name}") == split)
    if not names:
        raise DatasetError(f"{path}: names no sample of subset {split!r}; train, val and test are in the release")
    return [_read_patch(root, split, name, pairs[name]) for name in names]


def _read_pairs(path: Path) -> dict[str, Any]:
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"))["sample_pairs"]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); give --data the dataset's folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not OCELOT's metadata with sample_pairs ({error})") from None
    if not isinstance(pairs, dict):
        raise DatasetError(f"{path}: sample_pairs is {type(pairs).__name__}; a sample a key needed")
    return pairs


def _read_patch(root: Path, split: str, name: str, pair: Mapping[str, Any]) -> LabelledPatch:
    where = f"{root / 'metadata.json'}: {name}"
    mpp = _mpp(_entry(pair, "cell", where), "resized_mpp", f"{where}: cell")
    slide_mpp = _mpp(pair, "mpp", where) if "mpp_x" in pair else None
    image = read_rgb(_inside(root / "images" / split / "cell", f"{name}.jpg"))
    path = _inside(root / "annotations" / split / "cell", f"{name}.csv")
    rows = _read_rows(path, image.shape[1], image.shape[0])
    return LabelledPatch(
        name,
        image,
        (rows[:, :2] + OCELOT_DOT_OFFSET_PX).astype(np.float32),
        rows[:, 2] - 1,  # labels count from 1
        OCELOT_CLASS_NAMES,
        mpp,
        slide_mpp=slide_mpp,
        place=_place(pair),
    )


def _place(pair: Mapping[str, Any]) -> SlidePlace | None:
    """Where the patch lies on its slide, as the metadata say in px of level 0; None where they don't."""
    cell, name = pair["cell"], pair.get("slide_name")
    corners = [cell.get(key) for key in ("x_start", "y_start", "x_end", "y_end")]
    if not isinstance(name, str) or not all(isinstance(corner, int | float) for corner in corners):
        return None
    x, y, x_end, y_end = (float(corner) for corner in corners)
    return SlidePlace(name, x, y, x_end - x, y_end - y)


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder, where the name does not lead out of it."""
    if Path(name).name != name:
        raise DatasetError(f"{folder}: sample {name!r} is no file name")
    return folder / name


def _entry(pair: object, key: str, where: str) -> Any:  # noqa: ANN401 (JSON)
    if not isinstance(pair, dict) or key not in pair:
        raise DatasetError(f"{where}: no entry {key!r}")
    return pair[key]


def _mpp(entry: object, key: str, where: str) -> float:
    """One µm/px for both axes; the two are equal in the release."""
    along_x, along_y = (_entry(entry, f"{key}_{axis}", where) for axis in "xy")
    finest, coarsest = LABELLED_MPP
    if not all(isinstance(mpp, int | float) and finest <= mpp <= coarsest for mpp in (along_x, along_y)):
        raise DatasetError(
            f"{where}: {key} {along_x!r}, {along_y!r}; numbers from {finest:g} to {coarsest:g} um/px needed"
        )
    if abs(along_x - along_y) > 0.01 * along_x:
        raise DatasetError(f"{where}: {key} {along_x} and {along_y} um/px differ; square pixels needed")
    return float(along_x)


def _read_rows(path: Path, width: int, height: int) -> NDArray[np.int64]:
    """Rows x, y, label, (N, 3) int64; an empty file has none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: no label file ({error.strerror}); each image needs one") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        x, y, label = _row(line, where)
        if not (0 <= x < width and 0 <= y < height):
            raise DatasetError(f"{where}: ({x}, {y}) lies outside the {width}x{height} image; x,y,label")
        if label not in (1, 2):
            raise DatasetError(f"{where}: label {label} found; 1 or 2 needed")
        rows.append((x, y, label))
    return np.array(rows, np.int64).reshape(-1, 3)


def _row(line: str, where: str) -> tuple[int, int, int]:
    try:
        x, y, label = (int(float(word)) for word in line.split(","))
    except (ValueError, OverflowError):
        raise DatasetError(f"{where}: {line[:60]!r} found; three numbers x,y,label needed") from None
    return x, y, label
