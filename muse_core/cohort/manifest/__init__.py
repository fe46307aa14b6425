"""Slide manifests: which slides a run works on, where they are and what they should be.

`read_manifest` takes our CSV, GDC's own manifest, a folder, a glob or one slide file; `write_manifest` writes our CSV.
"""

from muse_core.cohort.manifest.read import NO_SLIDES, read_manifest, write_manifest
from muse_core.cohort.manifest.rows import Manifest, ManifestRow, Problem, with_mpp, with_scene

__all__ = [
    "NO_SLIDES",
    "Manifest",
    "ManifestRow",
    "Problem",
    "read_manifest",
    "with_mpp",
    "with_scene",
    "write_manifest",
]
