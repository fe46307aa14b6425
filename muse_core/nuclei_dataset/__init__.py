"""The nuclei dataset: GeoParquet parts written in a space-filling order, and what analysts ask of them."""

from muse_core.nuclei_dataset.colours import class_colours, rgb
from muse_core.nuclei_dataset.dataset import Area, NucleiDataset, Unit
from muse_core.nuclei_dataset.part import NucleiPart
from muse_core.nuclei_dataset.points import NucleusPoints
from muse_core.nuclei_dataset.regions import Annotation, bounds_origin, read_regions
from muse_core.nuclei_dataset.statistics import (
    class_densities,
    cohort_summary,
    counts_in_regions,
    nearest_distances,
    neighbour_statistics,
)
from muse_core.nuclei_dataset.write import (
    NucleiHeader,
    WrittenNuclei,
    merge_nuclei,
    nuclei_table,
    part_path,
    stage_nuclei,
    write_nuclei,
)

__all__ = [
    "Annotation",
    "Area",
    "NucleiDataset",
    "NucleiHeader",
    "NucleiPart",
    "NucleusPoints",
    "Unit",
    "WrittenNuclei",
    "bounds_origin",
    "class_colours",
    "class_densities",
    "cohort_summary",
    "counts_in_regions",
    "merge_nuclei",
    "nearest_distances",
    "neighbour_statistics",
    "nuclei_table",
    "part_path",
    "read_regions",
    "rgb",
    "stage_nuclei",
    "write_nuclei",
]
