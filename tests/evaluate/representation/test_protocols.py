import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from muse_core.cli.evaluate import evaluate_app
from muse_core.errors import ConfigError
from muse_core.evaluate.representation import (
    EncoderFinetuneSettings,
    EvaluationRequest,
    LinearSettings,
    ScoredFeatures,
    encoder_named,
    evaluate_finetune,
    evaluate_knn,
    evaluate_linear,
    load_encoder,
    read_features,
)
from muse_core.evaluate.representation.features import NucleusFeatures
from muse_core.evaluate.representation.tiles import TileSettings, made_up
from muse_core.labels import Surround
from tests.data.make_patches import draw_patch, write_brca

HEAD = {"task", "dataset", "split", "checkpoint", "protocol", "radius_um", "accuracy"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=4, val=2)
    return root


def colours(images, xy):
    """The colour at a nucleus, less the glass: drawn nuclei have one colour a class."""
    found = [image[tuple(np.floor(points[:, ::-1]).astype(int).T)] for image, points in zip(images, xy, strict=True)]
    return np.concatenate(found).astype(np.float32) / 64 - 2


def request_of(data, **more):
    return EvaluationRequest("brca-m2c", data, checkpoint="colours", **more)


def test_neighbours_of_a_feature_that_says_it_all(data):
    answer = evaluate_knn(read_features(colours, request_of(data)), ks=(1, 5, 500))
    assert HEAD | {"k", "by_k", "k_from_val", "per_class", "confusion"} <= set(answer)
    assert answer["accuracy"] == 100
    assert (answer["k"], set(answer["by_k"]), answer["n_bank"], answer["n_nuclei"]) == (1, {"1", "5"}, 48, 24)
    assert "48 nuclei" in answer["notes"][0]
    assert answer["accuracy_k_from_val"] == answer["by_k"][str(answer["k_from_val"])]


def at_angles(degrees, class_ids):
    """Features on a circle."""
    angles = torch.deg2rad(torch.tensor(degrees))
    n = len(degrees)
    return NucleusFeatures(
        torch.stack([angles.cos(), angles.sin()], 1),
        torch.tensor(class_ids),
        np.zeros(n, np.int64),
        np.zeros((n, 2)),
        1,
    )


def test_the_best_k_of_the_split_and_the_one_that_validation_chooses_are_both_told(tmp_path):
    """One bank nucleus lies nearest, three of another class a little farther: k = 1 and k = 4 disagree."""
    splits = {
        "train": at_angles([0.0, 10.0, 10.0, 10.0], [0, 1, 1, 1]),
        "val": at_angles([1.0, 1.0], [0, 0]),
        "test": at_angles([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 0]),
    }
    request = EvaluationRequest("brca-m2c", tmp_path, split="test", checkpoint="angles")
    answer = evaluate_knn(ScoredFeatures(request, ("a", "b"), splits), ks=(1, 4))
    assert answer["by_k"] == {"1": 25, "4": 75}
    assert (answer["k"], answer["accuracy"]) == (4, 75)
    assert (answer["k_from_val"], answer["accuracy_k_from_val"]) == (1, 25)


@pytest.mark.parametrize(
    "encoder", ["nano", pytest.param("timm:resnet18:random", marks=pytest.mark.slow), f"{__name__}:colours"]
)
@pytest.mark.parametrize("fov_px", [224, 512])
def test_any_encoder_sees_either_field_of_view(data, encoder, fov_px):
    """The same nuclei are scored; the larger tiles show more around them."""
    request = request_of(data, fov_px=fov_px)
    scored = read_features(load_encoder(name=encoder, image_px=fov_px), request, batch_tiles=2)
    answer = evaluate_knn(scored, ks=(5,))
    assert (answer["n_bank"], answer["n_nuclei"], answer["fov_px"]) == (48, 24, fov_px)
    assert scored.splits["val"].xy.min() >= (fov_px - 224) / 2
    if encoder.endswith("colours"):
        assert answer["accuracy"] == 100


def test_a_linear_layer_on_it(data):
    scored = read_features(colours, request_of(data))
    answer = evaluate_linear(scored, settings=LinearSettings(learning_rate=0.5))
    assert answer["accuracy"] == answer["validation_accuracy"] > 90
    assert answer["notes"] == ["the epoch was chosen on this split"]


@pytest.mark.slow
def test_finetuning_trains_the_network_and_says_where_it_started(data):
    settings = EncoderFinetuneSettings(epochs=2, learning_rate=1e-3, linear=LinearSettings(epochs=2))
    request = request_of(data, mpp=0.45)
    answers = []
    for _ in range(2):
        encoder = encoder_named("nano")
        before = encoder.net.encoder.encoder.conv_stem.weight.clone()
        told = []
        answer = evaluate_finetune(
            encoder, request, settings=settings, on_epoch=lambda epoch, accuracy, told=told: told.append(epoch)
        )
        assert told == [0, 1]
        assert (encoder.net.encoder.encoder.conv_stem.weight - before).abs().max() > 0
        assert set(answer) >= HEAD | {"linear_accuracy", "epoch"}
        assert answer["notes"][1].startswith("images of 0.5 um/px are enlarged to 0.45, which adds no detail")
        answers.append(answer)
    assert answers[0] == answers[1]
    with pytest.raises(ConfigError, match="cannot be fine-tuned"):
        evaluate_finetune(colours, request_of(data))


def test_tiles_that_are_enlarged_or_mirrored_are_told(data):
    """BRCA-M2C's images have 0.5 um/px and no tissue around them."""
    enlarged, mirrored = "images of 0.5 um/px are enlarged to 0.25", "fields of view of 512 px reach over the images'"
    for protocol in (evaluate_knn, partial(evaluate_linear, settings=LinearSettings(epochs=1))):
        for mpp, fov_px, said in ((0.25, 512, [enlarged, mirrored]), (0.25, 224, [enlarged]), (0.5, 512, [mirrored])):
            notes = protocol(read_features(colours, request_of(data, mpp=mpp, fov_px=fov_px)))["notes"][1:]
            assert len(notes) == len(said)
            assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))


def test_tiles_of_tissue_alone_need_no_note(tmp_path):
    patch = replace(draw_patch(96, 6, 0), mpp=0.25)
    assert made_up([patch], TileSettings(mpp=0.25)) == []
    placed = replace(patch, surround=Surround(tmp_path / "context.png", 500, 500))
    assert made_up([placed], TileSettings(mpp=0.25, fov_px=512)) == []


def test_only_val_and_test_are_scored(data):
    with pytest.raises(ConfigError, match="val or test"):
        request_of(data, split="train")


def test_the_command_tells_the_papers_rows_and_ends_with_json(data):
    arguments = ["knn", "--dataset", "brca-m2c", "--data", str(data), "--encoder", f"{__name__}:colours", "--k", "3"]
    done = CliRunner().invoke(evaluate_app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output.splitlines()[-1])
    assert (answer["accuracy"], answer["k"], answer["checkpoint"]) == (100, 3, f"{__name__}:colours")
    assert "published" in done.output
    assert "MUSE ViT-S/16" in done.output
