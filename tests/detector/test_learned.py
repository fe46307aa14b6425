import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from muse_core.detector.calibration import Calibration
from muse_core.detector.detect import detect_image, load_detector
from muse_core.detector.learned import LearnedDetector, network_scale
from muse_core.detector.weights_file import DetectorWeights, load_model, save_model
from muse_core.errors import ConfigError, DatasetError, MppError
from muse_core.labels import BRCA_CLASS_NAMES
from muse_core.models.detector import NucleusNet, parameter_count
from muse_core.models.shipped import NUCLEUS_DETECTOR
from tests.data.make_patches import draw_patch


@pytest.fixture(scope="module")
def detector():
    return LearnedDetector()


@pytest.fixture(scope="module")
def patch():
    return draw_patch(320, 60, seed=5)


def _hits(points, xy, radius):
    if not len(points):
        return 0
    return int((np.linalg.norm(points[:, None, :2] - xy[None], axis=2).min(axis=0) < radius).sum())


def test_what_ships_is_small():
    assert NUCLEUS_DETECTOR.stat().st_size <= 4_000_000
    assert parameter_count(load_model(NUCLEUS_DETECTOR).net) <= 1_000_000


def test_it_is_the_detector_called_learned():
    assert isinstance(load_detector("learned"), LearnedDetector)


@pytest.mark.parametrize("mpp", [0.25, 0.2465, 0.35, 0.5, 0.62])
def test_drawn_nuclei_are_found_where_they_are_at_any_mpp(detector, patch, mpp):
    scale = 0.5 / mpp
    image = cv2.resize(
        patch.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    points = detector(image, mpp)
    points[:, :2] /= scale
    assert _hits(points, patch.xy, 3) >= 0.85 * len(patch.xy)
    assert len(points) <= 1.15 * len(patch.xy)
    distance = points[:, None, :2] - patch.xy[None]
    nearest = np.linalg.norm(distance, axis=2).argmin(axis=1)
    error = points[:, :2] - patch.xy[nearest]
    assert np.abs(np.median(error, axis=0)).max() < 0.5  # px of 0.5 µm: no shift, half a pixel would show


@pytest.mark.parametrize(
    ("mpp", "scale"),
    [(0.5, 1), (0.499, 1), (0.529, 1), (0.2465, 1 / 2), (0.263, 1 / 2), (0.1667, 1 / 3), (0.2, 0.4), (0.54, 1.08)],
)
def test_an_mpp_close_to_a_simple_one_is_not_resampled(mpp, scale):
    assert network_scale(mpp) == pytest.approx(scale)


def test_tiles_of_odd_mpp_give_what_the_whole_image_gives(detector):
    patch = draw_patch(900, 450, seed=7)
    for mpp in (0.2465, 0.52):
        found = detect_image(detector, patch.image, mpp, tile_px=384)
        assert _different(detector(patch.image, mpp), found) <= 0.005


def test_points_are_float32_in_the_image_surest_first(detector, patch):
    points = detector(patch.image, 0.5)
    assert points.dtype == np.float32
    assert points.shape[1] == 3
    assert (points[:, :2] >= 0).all()
    assert (points[:, :2] < 320).all()
    assert (np.diff(points[:, 2]) <= 0).all()
    assert points[:, 2].min() >= 0.5


def test_a_lower_bar_only_adds(patch, detector):
    strict, lax = detector(patch.image, 0.5), LearnedDetector(min_score=0.1)(patch.image, 0.5)
    np.testing.assert_array_equal(lax[lax[:, 2] >= 0.5], strict)


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (244, 244, 244), (0, 0, 0), (230, 150, 200), (20, 60, 160), (128, 128, 128)]
)
def test_nothing_is_found_where_nothing_is(detector, colour):
    assert not len(detector(np.full((200, 300, 3), colour, np.uint8), 0.5))


def test_nothing_is_found_in_pen_strokes(detector):
    image = np.full((400, 400, 3), 243, np.uint8)
    cv2.line(image, (-10, 80), (420, 300), (30, 60, 170), 50)
    cv2.line(image, (100, 420), (200, -10), (20, 20, 20), 30)
    assert len(detector(cv2.GaussianBlur(image, (0, 0), 1.5), 0.5)) <= 1


def test_ink_is_no_nucleus_and_a_blue_counterstain_is(detector, patch):
    for colour in ((40, 130, 140), (60, 140, 90)):
        spots = np.full((200, 200, 3), 240, np.uint8)
        for x in range(20, 190, 30):
            cv2.circle(spots, (x, x), 6, colour, -1, cv2.LINE_AA)
        assert not len(detector(cv2.GaussianBlur(spots, (0, 0), 0.7), 0.5))
    blue = np.array((90, 110, 170), np.float32)
    shade = patch.image.mean(axis=2, keepdims=True) / 255
    counterstained = np.clip(blue + (245 - blue) * np.clip(shade * 2 - 0.6, 0, 1), 0, 255).astype(np.uint8)
    assert _hits(detector(counterstained, 0.5), patch.xy, 3) > 0.7 * len(patch.xy)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 2), (17, 33)])
def test_tiny_images_have_a_right_answer(detector, shape):
    for mpp in (0.1, 0.25, 0.5, 0.9):
        assert detector(np.full((*shape, 3), 240, np.uint8), mpp).shape == (0, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 1), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.uint16),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 20, 3), np.uint8),
        [[1, 2, 3]],
    ],
)
def test_what_is_no_rgb_image_is_refused(detector, image):
    with pytest.raises(DatasetError, match="RGB needed"):
        detector(image, 0.5)


@pytest.mark.parametrize(
    ("mpp", "reason"), [(0, "mpp_missing"), (float("nan"), "mpp_missing"), (-1, "mpp_missing"), (2.0, "mpp_too_coarse")]
)
def test_an_mpp_of_no_use_is_refused(detector, mpp, reason):
    with pytest.raises(MppError) as error:
        detector(np.zeros((20, 20, 3), np.uint8), mpp)
    assert error.value.reason == reason


def test_tiles_inside_give_what_smaller_images_give(detector, monkeypatch):
    patch = draw_patch(640, 250, seed=6)
    whole = detector(patch.image, 0.5)
    monkeypatch.setattr("muse_core.detector.learned._TILE_PX", 256)
    tiled = detector(patch.image, 0.5)
    assert _different(whole, tiled) <= 0.005


def test_tiles_outside_give_what_the_whole_image_gives(detector):
    patch = draw_patch(900, 450, seed=7)
    whole = detector(patch.image, 0.5)
    assert _different(whole, detect_image(detector, patch.image, 0.5, tile_px=384)) <= 0.005


def _different(one, two):
    """Symmetric difference of two sets of points, 1 px apart at most, as a share of both."""
    common = _hits(one, two[:, :2], 1.0) + _hits(two, one[:, :2], 1.0)
    return (len(one) + len(two) - common) / (len(one) + len(two))


def test_the_half_score_stands_at_its_heat():
    calibration = Calibration(heat_at_half=0.3, slope=2.0)
    scores = calibration.score(np.array([0.0, 0.29, 0.3, 0.31, 1.0]))
    assert scores[2] == pytest.approx(0.5)
    assert (np.diff(scores) > 0).all()
    assert 0 <= scores.min() <= scores.max() <= 1


def test_a_model_survives_its_file(tmp_path, patch):
    torch.manual_seed(3)
    model = DetectorWeights(NucleusNet(n_classes=2).eval(), Calibration(0.07, 1.5), 2.0, ("tumour", "other"))
    save_model(model, tmp_path / "w.safetensors", notes={"dataset": "drawn"})
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.calibration == model.calibration
    assert loaded.min_distance_um == 2.0
    assert loaded.class_names == ("tumour", "other")
    np.testing.assert_array_equal(
        LearnedDetector(model)(patch.image, 0.5),
        LearnedDetector.from_file(tmp_path / "w.safetensors")(patch.image, 0.5),
    )


@pytest.mark.parametrize(
    ("n_classes", "dataset", "names"),
    [(3, None, BRCA_CLASS_NAMES), (3, "brca-m2c", BRCA_CLASS_NAMES), (3, "puma", ()), (2, None, ())],
)
def test_classes_that_a_file_does_not_name(tmp_path, n_classes, dataset, names):
    notes = {"dataset": dataset} if dataset else {}
    save_model(DetectorWeights(NucleusNet(n_classes=n_classes).eval()), tmp_path / "w.safetensors", notes=notes)
    assert load_model(tmp_path / "w.safetensors").class_names == names


def test_the_weights_that_ship_name_their_classes():
    with safe_open(NUCLEUS_DETECTOR, framework="pt") as file:
        assert json.loads(file.metadata()["class_names"]) == list(BRCA_CLASS_NAMES)


def test_as_many_names_as_classes_are_needed(tmp_path):
    model = DetectorWeights(NucleusNet(n_classes=2).eval(), class_names=("tumour",))
    save_model(model, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="1 names of 2 classes"):
        load_model(tmp_path / "w.safetensors")


def test_a_processor_without_bfloat16_runs_in_float32(detector, patch, monkeypatch):
    monkeypatch.setattr("muse_core.detector.network.best_dtype", lambda device: torch.float32)
    plain = LearnedDetector()
    assert plain._network.dtype == torch.float32
    assert _different(plain(patch.image, 0.5), detector(patch.image, 0.5)) <= 0.02


def test_a_detector_travels_to_other_processes(detector, patch):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(detector))(patch.image, 0.5), detector(patch.image, 0.5))


def test_a_file_that_is_no_detector(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("missing.safetensors", "junk.safetensors", "other.safetensors"):
        with pytest.raises(ConfigError, match=name):
            LearnedDetector.from_file(tmp_path / name)
    with pytest.raises(ConfigError, match="min_score"):
        LearnedDetector(min_score=50)
