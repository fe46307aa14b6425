"""The nuclei dataset: GeoParquet parts written in a space-filling order, and what analysts ask of them."""

from muse_core.nuclei_dataset.write import (
    NucleiHeader,
    NucleusPoints,
    WrittenNuclei,
    merge_nuclei,
    nuclei_table,
    part_path,
    stage_nuclei,
    write_nuclei,
)

__all__ = [
    "NucleiHeader",
    "NucleusPoints",
    "WrittenNuclei",
    "merge_nuclei",
    "nuclei_table",
    "part_path",
    "stage_nuclei",
    "write_nuclei",
]
