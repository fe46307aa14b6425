import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.detector.calibrate import best_threshold, calibrated
from muse_core.errors import ConfigError, DatasetError
from muse_core.evaluate.detect import draw_worst, evaluate_detector, score_patches
from muse_core.labels import read_labelled_patches
from muse_core.labels.matching import RULES
from muse_core.labels.regions import regions_of
from tests.data.make_patches import draw_patch, write_brca


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, val=3)
    return root


def _knowing(data, shift=0.0, drop=0, add=0):
    """A detector that looks the answer up, moved, without some, with some more."""
    patches = {patch.image.tobytes(): patch for patch in read_labelled_patches("brca-m2c", data, "val")}

    def detector(rgb, mpp):
        xy = patches[rgb.tobytes()].xy[drop:] + np.float32(shift)
        extra = np.column_stack([np.full(add, 2.0), np.arange(add) + 2.0]).astype(np.float32)
        xy = np.concatenate([xy, extra])
        return np.column_stack([xy, np.linspace(1, 0.6, len(xy))]).astype(np.float32)

    return detector


def test_a_perfect_detector_scores_one_by_every_rule(data):
    answer = evaluate_detector(_knowing(data), "brca-m2c", data, checkpoint="oracle")
    assert {k: answer[k] for k in ("task", "dataset", "split", "checkpoint", "protocol", "radius_um")} == {
        "task": "detect",
        "dataset": "brca-m2c",
        "split": "val",
        "checkpoint": "oracle",
        "protocol": "mcspatnet",
        "radius_um": 3.0,
    }
    assert answer["f1"] == answer["precision"] == answer["recall"] == 1
    assert set(answer["protocols"]) == set(RULES)
    assert answer["n_patches"] == 3
    assert answer["n_labels"] == answer["n_points"] == 36


def test_misses_and_false_points_are_counted_over_all_patches(data):
    answer = evaluate_detector(_knowing(data, drop=3, add=2), "brca-m2c", data)
    assert answer["recall"] == pytest.approx(27 / 36)
    assert answer["precision"] == pytest.approx(27 / 33)
    assert answer["f1"] == pytest.approx(2 * 27 / (36 + 33))


def test_the_radius_is_in_micrometres(data):
    just_in, just_out = (_knowing(data, shift=s) for s in (4.2, 4.3))  # diagonal: 5.94 px and 6.08 px, 2.97 and 3.04 µm
    assert evaluate_detector(just_in, "brca-m2c", data)["recall"] == 1
    assert evaluate_detector(just_out, "brca-m2c", data)["recall"] < 0.2
    assert evaluate_detector(just_out, "brca-m2c", data, radius_um=3.2)["recall"] == 1


def test_a_detector_that_returns_nonsense_is_named(data):
    def nonsense(rgb, mpp):
        return np.full((1, 3), np.nan)

    with pytest.raises(DatasetError, match="nonsense"):
        evaluate_detector(nonsense, "brca-m2c", data)


def test_the_worst_patches_are_drawn_with_their_marks(data, tmp_path):
    scores = score_patches(_knowing(data, drop=1, add=1), read_labelled_patches("brca-m2c", data, "val"))
    draw_worst(scores, tmp_path / "worst.png", count=2)
    picture = cv2.imread(str(tmp_path / "worst.png"))[:, :, ::-1]
    assert picture.shape[1] > 2 * 160 * 3
    for colour in ((40, 200, 40), (230, 30, 30), (30, 60, 240)):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 12).sum() > 30
    with pytest.raises(ConfigError, match="no patch"):
        draw_worst([], tmp_path / "none.png")


def test_the_threshold_of_best_f1_and_scores_that_say_how_often():
    rng = np.random.default_rng(0)
    patch = draw_patch(500, 200, seed=1)
    # Tops at all nuclei with heat around 0.6, and as many false ones around 0.3.
    false = rng.uniform(0, 500, (200, 2))
    false = false[np.linalg.norm(false[:, None] - patch.xy[None], axis=2).min(axis=1) > 7]
    heat = np.clip(np.concatenate([rng.normal(0.6, 0.1, 200), rng.normal(0.3, 0.1, len(false))]), 0.06, 0.95)
    tops = [np.column_stack([np.concatenate([patch.xy, false]), heat]).astype(np.float32)]
    threshold, f1 = best_threshold(tops, regions_of([patch]))
    assert 0.35 < threshold < 0.55
    assert f1 > 0.85
    calibration = calibrated(tops, regions_of([patch]))
    assert calibration.heat_at_half == threshold
    scores = calibration.score(heat)
    sure = scores > 0.9
    assert sure[:200].sum() / sure.sum() > 0.9


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--protocol", "typo", "needs all or one of"), ("--detector", "none", "finds nothing")],
)
def test_a_wrong_option_is_told_before_the_data_is_read(tmp_path, option, value, says):
    arguments = ["evaluate", "detect", "--dataset", "brca-m2c", "--data", str(tmp_path / "none"), option, value]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
