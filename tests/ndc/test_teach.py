"""Corrections into a model: what is learned from, what both are compared on, and which one is in use afterwards."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
import torch
from shapely.geometry import mapping

from muse_core.detector.calibration import Calibration
from muse_core.errors import ConfigError, DatasetError
from muse_core.models.backbone import BackboneSettings
from muse_core.ndc import teach as module
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint, save_checkpoint
from muse_core.ndc.head import NdcHead
from muse_core.ndc.model import NdcModel
from muse_core.ndc.registry import Decision, current_checkpoint, read_current
from muse_core.ndc.settings import ModelSettings
from muse_core.ndc.teach import TeachSettings, teach
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import CLASS_NAMES, draw_patch
from tests.ndc.tiny import TINY

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY_TEACH = TeachSettings(
    steps=4, batch_size=2, side_px=64, average_steps=2, warmup_steps=2, threads=1, freeze_stages=0, model=TINY.model
)


def write_part(folder, seeds, class_names=CLASS_NAMES):
    """Drawn images with every dot labelled, as a lab has them."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "dataset.toml").write_text("mpp = 0.5\n")
    for seed in seeds:
        patch = draw_patch(128, 6, seed)
        cv2.imwrite(str(folder / "images" / f"i{seed}.png"), cv2.cvtColor(patch.image, cv2.COLOR_RGB2BGR))
        rows = [f"{x},{y},{class_names[one]}" for (x, y), one in zip(patch.xy, patch.class_ids, strict=True)]
        (folder / "labels" / f"i{seed}.csv").write_text("\n".join(["x,y,class", *rows]))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Intervals, which nothing here hangs on, take half of a teaching's time."""
    monkeypatch.setattr("muse_core.labels.summary._DRAWS", 20)


@pytest.fixture
def lab(tmp_path):
    write_part(tmp_path / "lab", (1, 2))
    write_part(tmp_path / "lab" / "held-back", (3,))
    return tmp_path / "lab"


@pytest.fixture
def start(tmp_path):
    return write_random_ndc(tmp_path / "start.safetensors")


def test_the_model_in_use_is_registered_and_the_taught_one_compared_with_it(lab, start):
    told = []
    decision = teach(lab, in_use=start, settings=TINY_TEACH, on_progress=told.append)
    assert isinstance(decision, Decision)
    assert decision.in_use is not None, "the one that found the nuclei was scored first"
    assert decision.in_use.measure == decision.candidate.measure
    assert decision.candidate.measure.split == "held back"
    assert decision.candidate.n_labels == 6
    assert decision.taken is (decision.candidate.mean_class_f1 > decision.in_use.mean_class_f1)
    (run,) = (lab / "taught").glob("*/taught.safetensors")
    in_use = current_checkpoint(lab / "models")
    assert in_use.read_bytes() == (run if decision.taken else start).read_bytes()
    assert load_checkpoint(run).head.class_names == CLASS_NAMES
    assert told[-1].step == 4
    history = [json.loads(line) for line in (lab / "models" / "history.jsonl").read_text().splitlines()]
    assert [one["source"] for one in history] == [str(start), str(run)]


def test_what_is_offered_lies_between_the_model_in_use_and_what_was_learned(lab, start):
    teach(lab, in_use=start, settings=TINY_TEACH.model_copy(update={"kept": 0.75}))
    (offered,) = (lab / "taught").glob("*/taught.safetensors")
    before, learned, mean = (
        load_checkpoint(path).net.state_dict() for path in (start, offered.with_name("ndc.safetensors"), offered)
    )
    moved = {name for name, tensor in learned.items() if tensor.ndim > 1 and not torch.equal(tensor, before[name])}
    assert moved
    for name in moved:
        expected = 0.75 * before[name] + 0.25 * learned[name]
        torch.testing.assert_close(mean[name], expected, rtol=2e-3, atol=2e-4)  # kernels are kept in float16


@pytest.mark.slow
@pytest.mark.parametrize("better", [True, False])
def test_only_what_is_better_is_taken_into_use(lab, start, monkeypatch, better):
    scores = iter([0.5, 0.5, 0.6 if better else 0.5])  # the start's twice, then the taught model's
    score_of = module.score_of

    def scored(model, labelled):
        return score_of(model, labelled).model_copy(update={"mean_class_f1": next(scores)})

    monkeypatch.setattr(module, "score_of", scored)
    monkeypatch.setattr("muse_core.ndc.promote.score_of", scored)
    decision = teach(lab, in_use=start, settings=TINY_TEACH)
    assert decision.taken is better
    assert (current_checkpoint(lab / "models").read_bytes() == start.read_bytes()) is not better


@pytest.mark.slow
def test_a_second_teaching_begins_at_the_model_in_use(lab, start, monkeypatch):
    teach(lab, in_use=start, settings=TINY_TEACH)
    begun = []

    def learned(lab, data, start, **options):
        begun.append(start)
        raise InterruptedError

    monkeypatch.setattr(module, "_learned", learned)
    with pytest.raises(InterruptedError):
        teach(lab, in_use=lab / "nobody asks for this one.safetensors", settings=TINY_TEACH)
    assert begun == [current_checkpoint(lab / "models")]


@pytest.mark.slow
def test_a_lone_mark_is_learned_alone_and_judged_with_the_tissue_around_it_as_the_model_in_use_sees_it(
    tmp_path, start, monkeypatch
):
    """Chosen by lone marks alone, a threshold would find nuclei everywhere: around each mark there is one."""
    lab, handed = tmp_path / "lab", []
    checkpoint, image = load_checkpoint(start), draw_patch(128, 6, 1).image
    likely = float(np.median(NdcModel(start).candidates(image[None])[0].score))  # by itself it is sure of no nucleus
    head = replace(checkpoint.head, calibration=Calibration(heat_at_half=likely))
    save_checkpoint(replace(checkpoint, head=head), start)
    for folder, seed in ((lab, 1), (lab / "held-back", 3)):
        write_part(folder, (seed,))
        (folder / "labels" / f"i{seed}.csv").unlink()
        disc = shapely.Point(40, 40).buffer(12)
        marks = [(shapely.Point(40, 40), CLASS_NAMES[2]), (disc, "Region*")]
        features = [
            {"type": "Feature", "geometry": mapping(shape), "properties": {"classification": {"name": name}}}
            for shape, name in marks
        ]
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (folder / "labels" / f"i{seed}.geojson").write_text(text)

    def learned(lab, data, start, **options):
        handed.append(data)
        raise InterruptedError

    monkeypatch.setattr(module, "_learned", learned)
    with pytest.raises(InterruptedError):
        teach(lab, in_use=start, settings=TINY_TEACH)
    (data,) = handed
    (mark,), (tissue,) = data.labelled, data.validation
    assert mark.xy.tolist() == [[40, 40]]
    assert 400 < mark.annotated.sum() < 500
    found = NdcModel(start).find(mark.image[None])[0]
    sure = found.score >= 0.5
    beyond = sure & (np.hypot(*(found.xy - 40).T) > 12.5)
    assert beyond.any()
    assert tissue.annotated is None
    assert tissue.xy[0].tolist() == [40, 40]
    assert tissue.class_ids[0] == 2
    assert {tuple(xy) for xy in found.xy[beyond].tolist()} <= {tuple(xy) for xy in tissue.xy.tolist()}
    assert len(tissue.xy) <= 1 + sure.sum()


@pytest.mark.slow
def test_asked_to_stop_it_decides_nothing_and_goes_on_where_it_was(lab, start):
    asked = iter([False, True])
    assert teach(lab, in_use=start, settings=TINY_TEACH, should_stop=lambda: next(asked)) is None
    assert read_current(lab / "models").source == str(start)
    steps = []
    decision = teach(lab, in_use=start, settings=TINY_TEACH, on_progress=lambda progress: steps.append(progress.step))
    assert decision is not None
    record = json.loads(next((lab / "taught").glob("*/training.json")).read_text())
    assert len(record["losses"]) == 4
    assert len(list((lab / "taught").glob("*/ndc.safetensors"))) == 1


@pytest.mark.slow
def test_heads_of_another_width_than_the_recipe_s_are_kept(lab, start):
    wider = TINY_TEACH.model_copy(update={"model": ModelSettings()})
    assert load_checkpoint(start).head.hidden < wider.model.hidden
    assert teach(lab, in_use=start, settings=wider) is not None


@pytest.mark.slow
def test_a_class_that_people_added_is_learned(tmp_path, start):
    named = (*CLASS_NAMES[:2], "mitosis")
    write_part(tmp_path / "lab", (1, 2), named)
    write_part(tmp_path / "lab" / "held-back", (3,), named)
    teach(tmp_path / "lab", in_use=start, settings=TINY_TEACH)
    (run,) = (tmp_path / "lab" / "taught").glob("*/ndc.safetensors")
    assert load_checkpoint(run).head.class_names == (*CLASS_NAMES, "mitosis")


def test_what_is_missing_is_one_line(tmp_path, start, lab):
    with pytest.raises(DatasetError, match="no labels in it; label some nuclei in muse view"):
        teach(tmp_path / "nothing", in_use=start, settings=TINY_TEACH)
    write_part(tmp_path / "all learned", (1,))
    with pytest.raises(DatasetError, match="every fifth is held back; label more nuclei"):
        teach(tmp_path / "all learned", in_use=start, settings=TINY_TEACH)
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        teach(lab, in_use=tmp_path / "gone.safetensors", settings=TINY_TEACH)
    assert not (lab / "models").exists()


def _asked_of_finetuning(monkeypatch, lab, start, settings):
    handed = []

    def learned(lab, data, start, *, settings, **options):
        handed.append(settings)
        raise InterruptedError

    monkeypatch.setattr(module, "_learned", learned)
    monkeypatch.setattr(module, "register_if_better", lambda *given: None)
    with pytest.raises(InterruptedError):
        teach(lab, in_use=start, settings=settings)
    return handed[0]


@pytest.mark.slow
def test_a_model_read_by_proposals_is_taught_as_one(lab, start, monkeypatch):
    checkpoint = load_checkpoint(start)
    save_checkpoint(replace(checkpoint, head=replace(checkpoint.head, readout="proposals")), start)
    settings = _asked_of_finetuning(monkeypatch, lab, start, TINY_TEACH)
    assert settings.loss.dense == 0
    assert settings.loss.cons_start == TINY_TEACH.loss.cons_start


@pytest.mark.parametrize(
    ("preset", "rate", "stages"),
    [("nano", 3e-4, 2), ("vit-s16", 3e-5, 0), ("resnet50", 3e-5, 0)],
)
def test_rates_and_frozen_stages_fit_the_backbone_unless_they_are_given(start, preset, rate, stages):
    checkpoint = replace(load_checkpoint(start), backbone=BackboneSettings(preset=preset))
    found = module._fitting(TeachSettings(), checkpoint)
    assert found.learning_rate == pytest.approx(rate)
    assert found.freeze_stages == stages
    given = module._fitting(TeachSettings(learning_rate=1e-2, freeze_stages=1), checkpoint)
    assert (given.learning_rate, given.freeze_stages) == (1e-2, 1)


@pytest.mark.slow
def test_a_vit_is_taught(tmp_path, lab):
    backbone, head = BackboneSettings(preset="test_vit", image_px=64), NdcHead(CLASS_NAMES, hidden=8)
    path = tmp_path / "vit.safetensors"
    save_checkpoint(NdcCheckpoint(build_net(backbone, head), backbone, head, {}), path)
    settings = TINY_TEACH.model_copy(update={"steps": 1, "freeze_stages": None})
    assert teach(lab, in_use=path, settings=settings) is not None
