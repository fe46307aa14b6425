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
    pooled_density,
)
from muse_core.nuclei_dataset.write import (
    NucleiHeader,
    WrittenNuclei,
    has_parts,
    merge_nuclei,
    nuclei_table,
    part_path,
    parts_of_slide,
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
    "has_parts",
    "merge_nuclei",
    "nearest_distances",
    "neighbour_statistics",
    "nuclei_table",
    "part_path",
    "parts_of_slide",
    "pooled_density",
    "read_regions",
    "rgb",
    "stage_nuclei",
    "write_nuclei",
]
