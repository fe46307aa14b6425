"""What a careful reader should know about a slide before trusting its figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muse_core.errors import figure, percent
from muse_core.models.familiar import MUCH_DOUBT, SOME_DOUBT
from muse_core.report.scan import SlideScan

# Cellular tissue in sections of 3 to 5 µm holds some hundreds (fat, stroma) to about fifteen thousand (lymph node)
# nuclei per mm²; figures beyond are more often a wrong µm/px or a stain that the model does not know.
_FEWEST_PER_MM2, _MOST_PER_MM2 = 100.0, 18_000.0
_LEAST_TISSUE_MM2 = 1.0
_LEAST_MEAN_SCORE = 0.65
_MOST_OUTSIDE = 0.05
_MOST_ANISOTROPY = 0.02


@dataclass(frozen=True)
class Note:
    """One remark.

    Attributes:
        kind: `good`, or `look` where a person should look.
        text: a sentence.
    """

    kind: Literal["good", "look"]
    text: str


def notes_on(slide: Mapping[str, Any], scan: SlideScan, provenance: Mapping[str, Any]) -> list[Note]:
    """Remarks on a slide, those to look at first.

    Args:
        slide: its row of the slides table; columns may be missing.
        scan: its nuclei.
        provenance: of its part.
    """
    found = [*_of_area(provenance), *_of_doubt(slide), *_of_reading(slide), *_of_scale(slide), *_of_nuclei(slide, scan)]
    return sorted(found, key=lambda note: note.kind == "good")


def _of_area(provenance: Mapping[str, Any]) -> list[Note]:
    notes = []
    if regions := provenance.get("regions"):
        text = f"Only the regions of {regions['file']} were looked at; tissue and densities are of what lies in them."
        notes.append(Note("look", text))
    if edited := provenance.get("tissue_edited"):
        notes.append(Note("look", f"The tissue was not found but given, by {edited['file']}."))
    return notes


def _of_doubt(slide: Mapping[str, Any]) -> list[Note]:
    doubt = slide.get("doubt")
    if doubt is None:
        return []
    share = percent(doubt, 0, 1)
    if doubt >= MUCH_DOUBT:
        text = (
            f"The model does not know such tissue: {share} of the windows looked at are unlike what it learned "
            f"from, mostly in {slide.get('doubt_why')}. Nuclei may be where it says, but do not trust their classes."
        )
        return [Note("look", text)]
    if doubt > SOME_DOUBT:
        why = slide.get("doubt_why")
        return [Note("look", f"{share} of the windows looked at are unlike what the model learned from: {why}.")]
    return [Note("good", "Stain, sharpness and density are those of tissue that the model knows.")]


def _of_reading(slide: Mapping[str, Any]) -> list[Note]:
    notes = []
    failed, total = slide.get("n_failed_tiles"), slide.get("n_tiles")
    if failed:
        notes.append(Note("look", f"{failed} of {total} tiles could not be read; there are no nuclei in them."))
    elif total:
        notes.append(Note("good", f"All {total} tiles were read."))
    if slide.get("reader_check"):
        notes.append(Note("good", f"Read by {slide.get('reader')}, checked: {slide['reader_check']}."))
    if slide.get("judgement"):
        notes.append(Note("good", f"Of the file: {slide['judgement']}."))
    return notes


def _of_scale(slide: Mapping[str, Any]) -> list[Note]:
    source, mpp_x, mpp_y = slide.get("mpp_source"), slide.get("mpp_x"), slide.get("mpp_y")
    if not (mpp_x and mpp_y):
        return [Note("look", "The slides table does not say the µm/px.")]
    notes = []
    if source == "override":
        notes.append(Note("look", f"{mpp_x:.4g} µm/px was given by hand, whatever the file says."))
    else:
        notes.append(Note("good", f"{mpp_x:.4g} µm/px, from the file ({source})."))
    if abs(mpp_x / mpp_y - 1) > _MOST_ANISOTROPY:
        notes.append(Note("look", f"Pixels are not square: {figure(mpp_x, mpp_y)} by {figure(mpp_y, mpp_x)} µm."))
    return notes


def _of_nuclei(slide: Mapping[str, Any], scan: SlideScan) -> list[Note]:
    total, inside = int(scan.counts.sum()), int(scan.in_tissue.sum())
    if not total:
        return [Note("look", "No nucleus was found.")]
    notes, mm2 = [], slide.get("tissue_mm2") or 0.0
    if 0 < mm2 < _LEAST_TISSUE_MM2:
        area = figure(mm2, _LEAST_TISSUE_MM2, digits=3)
        notes.append(Note("look", f"Only {area} mm² of tissue: densities are of little weight."))
    if mm2 and not _FEWEST_PER_MM2 <= inside / mm2 <= _MOST_PER_MM2:
        notes.append(Note("look", f"{inside / mm2:,.0f} nuclei per mm² is unusual; are µm/px and stain right?"))
    score = float(scan.score_sums.sum()) / total
    if score < _LEAST_MEAN_SCORE:
        mean = figure(score, _LEAST_MEAN_SCORE, digits=2)
        notes.append(Note("look", f"Scores are low, {mean} on average; does the model know this stain?"))
    if (outside := 1 - inside / total) > _MOST_OUTSIDE:
        share = percent(outside, 0, 1)
        notes.append(Note("look", f"{share} of the nuclei lie at the tissue's rim, outside its outline."))
    unsure = float(scan.chances[:, : scan.chances.shape[1] // 2].sum()) / total
    kind: Literal["good", "look"] = "look" if unsure > 0.2 and len(scan.counts) > 1 else "good"
    if len(scan.counts) > 1:
        notes.append(Note(kind, f"{percent(unsure, 0, 1)} of the nuclei have a class of less than 50% probability."))
    return notes


def mean_score(scan: SlideScan) -> float | None:
    """Of all nuclei; None where there is none."""
    total = int(scan.counts.sum())
    return float(np.sum(scan.score_sums)) / total if total else None
