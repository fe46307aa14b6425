"""Remarks that a slide earns."""

import numpy as np
import pytest

from muse_core.report.notes import mean_score, notes_on
from muse_core.report.scan import BINS, SlideScan
from tests.report.conftest import slide_row


def scan(n=10_000, *, in_tissue=1.0, score=0.85, sure=1.0):
    chances = np.zeros((2, BINS), np.int64)
    chances[0, -1], chances[0, 3] = sure * n, (1 - sure) * n
    counts = np.array([n, 0])
    return SlideScan(
        counts, (counts * in_tissue).astype(int), counts * score, chances, chances, np.zeros((2, 3, 3), np.float32)
    )


def to_look_at(row, scan, about=None):
    return [note.text for note in notes_on(row, scan, about or {}) if note.kind == "look"]


def test_a_good_slide_has_nothing_to_look_at():
    assert to_look_at(slide_row("S1", tissue_mm2=3.0), scan()) == []
    assert any("All 12 tiles" in note.text for note in notes_on(slide_row("S1"), scan(), {}))


@pytest.mark.parametrize(
    ("row", "nuclei", "words"),
    [
        ({"n_failed_tiles": 3}, {}, "3 of 12 tiles could not be read"),
        ({"mpp_source": "override"}, {}, "given by hand"),
        ({"mpp_y": 0.3}, {}, "not square"),
        ({"mpp_x": None}, {}, "does not say"),
        ({"tissue_mm2": 0.5}, {"n": 1000}, r"0.5 mm² of tissue"),
        ({}, {"n": 100}, "33 nuclei per mm² is unusual"),
        ({}, {"n": 90_000}, "30,000 nuclei per mm² is unusual"),
        ({}, {"score": 0.55}, "Scores are low, 0.55"),
        ({}, {"in_tissue": 0.9}, "10% of the nuclei"),
        ({}, {"sure": 0.7}, "30% of the nuclei have a class of less than 50%"),
        ({}, {"n": 0}, "No nucleus"),
        ({"doubt": 0.97, "doubt_why": "blue in nuclei"}, {}, "do not trust their classes"),
        (
            {"doubt": 0.3, "doubt_why": "sharpness"},
            {},
            "30% of the windows looked at are unlike",
        ),
    ],
)
def test_what_is_odd_is_said_and_nothing_else(row, nuclei, words):
    found = to_look_at(slide_row("S1", **{"tissue_mm2": 3.0} | row), scan(**nuclei))
    assert len(found) == 1
    assert words in found[0]


def test_tissue_that_the_model_knows_is_said_to_be_known():
    row = slide_row("S1", tissue_mm2=3.0, doubt=0.02, doubt_why="sharpness")
    assert to_look_at(row, scan()) == []
    assert any("tissue that the model knows" in note.text for note in notes_on(row, scan(), {}))


def test_mean_score():
    assert mean_score(scan(score=0.7)) == pytest.approx(0.7)
    assert mean_score(scan(n=0)) is None


def test_an_area_that_a_person_gave_is_said():
    about = {"regions": {"file": "r.geojson", "sha256": "0"}, "tissue_edited": {"file": "S1.geojson", "sha256": "1"}}
    found = to_look_at(slide_row("S1", tissue_mm2=3.0), scan(), about)
    assert len(found) == 2
    assert "Only the regions of r.geojson" in found[0]
    assert "given, by S1.geojson" in found[1]
