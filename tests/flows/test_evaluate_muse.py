"""Scores by task runs, with Prefect's own server, over drawn patches."""

import json

import pytest

from flows.evaluate_muse import evaluate_muse
from muse_core.models.shipped import NUCLEUS_DETECTOR
from tests.data.make_patches import write_brca

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def data(tmp_path):
    write_brca(tmp_path / "data", train=2, val=1, side_px=256, n_nuclei=8)
    return tmp_path / "data"


def test_scores_stand_beside_the_paper_s(data, artifacts, tmp_path):
    answers = evaluate_muse(
        "brca-m2c",
        data,
        tmp_path / "out",
        scores=("knn", "linear"),
        encoder="timm:test_efficientnet:random",
        device="cpu",
    )
    assert list(answers) == ["knn", "linear"]
    assert json.loads((tmp_path / "out" / "knn.json").read_text()) == answers["knn"]
    shown = artifacts()
    rows = json.loads(shown["evaluate-muse-scores"])
    own = {row["score"]: row["value"] for row in rows if row["source"] == "this run"}
    assert own == {name: round(answer["accuracy"], 2) for name, answer in answers.items()}
    published = {row["model"]: row["value"] for row in rows if row["source"] == "published" and row["score"] == "knn"}
    assert published["LFoV-MUSE ViT-B/16"] == 89.03
    assert "LFoV-MUSE ViT-B/16 89.03" in str(shown["evaluate-muse-summary"])


def test_a_score_that_cannot_be_had_costs_no_other(data, artifacts, tmp_path):
    state = evaluate_muse(
        "brca-m2c", data, tmp_path / "out", scores=("ndc", "detect"), checkpoint=NUCLEUS_DETECTOR, return_state=True
    )
    assert state.is_failed()
    assert str(state.message).startswith("ndc failed")
    assert json.loads((tmp_path / "out" / "detect.json").read_text())["n_labels"] == 8
    summary = str(artifacts()["evaluate-muse-summary"])
    assert "| detect |" in summary
    assert "- ndc: NDC checkpoint" in summary
