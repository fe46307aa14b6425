import json

import numpy as np
import pytest
from typer.testing import CliRunner

from muse_core.cli_evaluate import evaluate_app
from muse_core.errors import ConfigError
from muse_core.representation import (
    EvaluationRequest,
    FinetuneSettings,
    LinearSettings,
    encoder_named,
    evaluate_finetune,
    evaluate_knn,
    evaluate_linear,
    read_features,
)
from tests.data.make_patches import write_brca

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


def test_a_linear_layer_on_it(data):
    scored = read_features(colours, request_of(data))
    answer = evaluate_linear(scored, settings=LinearSettings(learning_rate=0.5))
    assert answer["accuracy"] == answer["validation_accuracy"] > 90
    assert answer["notes"] == ["the epoch was chosen on this split"]


def test_finetuning_trains_the_network_and_says_where_it_started(data):
    settings = FinetuneSettings(epochs=2, learning_rate=1e-3, linear=LinearSettings(epochs=2))
    answers = []
    for _ in range(2):
        encoder = encoder_named("nano")
        before = encoder.net.encoder.encoder.conv_stem.weight.clone()
        told = []
        answer = evaluate_finetune(
            encoder, request_of(data), settings=settings, on_epoch=lambda epoch, accuracy, told=told: told.append(epoch)
        )
        assert told == [0, 1]
        assert (encoder.net.encoder.encoder.conv_stem.weight - before).abs().max() > 0
        assert set(answer) >= HEAD | {"linear_accuracy", "epoch"}
        answers.append(answer)
    assert answers[0] == answers[1]
    with pytest.raises(ConfigError, match="cannot be fine-tuned"):
        evaluate_finetune(colours, request_of(data))


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
