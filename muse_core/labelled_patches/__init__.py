"""Labelled patch datasets in the layouts their authors publish: images with classified dots.

A reader turns one layout into `LabelledPatch`es; `READERS` names them.
"""

from muse_core.labelled_patches.brca_m2c import BRCA_CLASS_NAMES, BRCA_DOT_OFFSET_PX, BRCA_MPP, read_brca_m2c
from muse_core.labelled_patches.patch import SPLITS, LabelledPatch, Surround, read_rgb
from muse_core.labelled_patches.read import DOT_OFFSETS_PX, READERS, read_labelled_patches

__all__ = [
    "BRCA_CLASS_NAMES",
    "BRCA_DOT_OFFSET_PX",
    "BRCA_MPP",
    "DOT_OFFSETS_PX",
    "READERS",
    "SPLITS",
    "LabelledPatch",
    "Surround",
    "read_brca_m2c",
    "read_labelled_patches",
    "read_rgb",
]
