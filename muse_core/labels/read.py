"""Readers by the name of their dataset."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from muse_core.errors import ConfigError
from muse_core.labels.brca_m2c import BRCA_DOT_OFFSET_PX, read_brca_m2c
from muse_core.labels.consep import read_consep
from muse_core.labels.nuinsseg import read_nuinsseg
from muse_core.labels.ocelot import OCELOT_DOT_OFFSET_PX, read_ocelot
from muse_core.labels.patch import SPLITS, LabelledPatch, Labels
from muse_core.labels.puma import read_puma

READERS: dict[str, Callable[[Path, str], list[LabelledPatch]]] = {
    "brca-m2c": read_brca_m2c,
    "ocelot": read_ocelot,
    "puma": read_puma,
    "nuinsseg": read_nuinsseg,
    "consep": read_consep,
}
# Table 3 of the paper takes PUMA's dots and classes from its split files; their `tils` may hold plasma cells.
_DOT_READERS = READERS | {"puma": partial(read_puma, labels="dots")}
# What each reader adds to the published dots, so that they are continuous px.
DOT_OFFSETS_PX = {
    "brca-m2c": BRCA_DOT_OFFSET_PX,
    "ocelot": OCELOT_DOT_OFFSET_PX,
    "puma": 0.0,
    "nuinsseg": 0.0,
    "consep": 0.0,
}


def read_labelled_patches(dataset: str, root: Path, split: str, *, labels: Labels = "polygons") -> list[LabelledPatch]:
    """Read every patch of a split, decoded, in the order of the split's list.

    Args:
        dataset: a name in `READERS`, such as `brca-m2c`.
        root: the dataset's folder.
        split: train, val or test.
        labels: of a dataset that publishes both, PUMA: `dots` for finding and naming nuclei (table 3 of the paper),
            `polygons` for naming given ones (tables 1 and 2). Others have one kind.

    Returns:
        The patches; a patch may have no nucleus.

    Raises:
        ConfigError: unknown dataset or split.
        DatasetError: the folder lacks a file, or an image or label file is not what the layout says.
    """
    if dataset not in READERS:
        raise ConfigError(f"dataset {dataset!r} is unknown; give one of {', '.join(READERS)}")
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is unknown; give one of {', '.join(SPLITS)}")
    return (_DOT_READERS if labels == "dots" else READERS)[dataset](root, split)
