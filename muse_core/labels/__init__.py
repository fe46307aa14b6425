"""Labelled patch datasets in the layouts their authors publish: images with classified dots.

A reader turns one layout into `LabelledPatch`es; `READERS` names them.
"""

from muse_core.images.decode import read_rgb
from muse_core.labels.brca_m2c import BRCA_CLASS_NAMES, BRCA_DOT_OFFSET_PX, BRCA_MPP, read_brca_m2c
from muse_core.labels.ocelot import OCELOT_CLASS_NAMES, read_ocelot
from muse_core.labels.patch import SPLITS, UNKNOWN_CLASS, LabelledPatch, Surround
from muse_core.labels.puma import PUMA_CLASS_NAMES, PUMA_MPP, read_puma
from muse_core.labels.read import DOT_OFFSETS_PX, READERS, read_labelled_patches

__all__ = [
    "BRCA_CLASS_NAMES",
    "BRCA_DOT_OFFSET_PX",
    "BRCA_MPP",
    "DOT_OFFSETS_PX",
    "OCELOT_CLASS_NAMES",
    "PUMA_CLASS_NAMES",
    "PUMA_MPP",
    "READERS",
    "SPLITS",
    "UNKNOWN_CLASS",
    "LabelledPatch",
    "Surround",
    "read_brca_m2c",
    "read_labelled_patches",
    "read_ocelot",
    "read_puma",
    "read_rgb",
]
