"""Folds by case: what is known of the other cases is all that an answer may come from."""

import cv2
import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.evaluate.representation.folds import knn_by_folds, linear_by_folds, read_folds
from muse_core.evaluate.representation.linear import LinearSettings
from muse_core.evaluate.representation.protocols import EvaluationRequest


@pytest.fixture
def lab(tmp_path):
    """Six images of three cases: dark nuclei of one class, bright ones of the other, except case C, where they swap."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        image = np.full((224, 224, 3), 128, np.uint8)
        lines = ["x,y,class"]
        for index, (x, y) in enumerate((30 + 40 * (i % 5), 30 + 40 * (i // 5)) for i in range(20)):
            dark = index % 2
            cv2.circle(image, (x, y), 6, (20 + number,) * 3 if dark else (240 - number,) * 3, -1)
            lines.append(f"{x + 0.5},{y + 0.5},{'lymphocyte' if dark != (number >= 4) else 'tumour'}")
        cv2.imwrite(str(tmp_path / "images" / f"i{number}.png"), image)
        (tmp_path / "labels" / f"i{number}.csv").write_text("\n".join(lines) + "\n")
    cases = ", ".join(f'i{number} = "{"AABBCC"[number]}"' for number in range(6))
    (tmp_path / "dataset.toml").write_text(f"mpp = 0.5\ncase_by_name = {{ {cases} }}\n")
    return tmp_path


def brightness(images, xy):
    """The grey at each nucleus, as two features that point elsewhere for dark and bright."""
    points = [point.astype(int) for point in xy]
    grey = [image[at[:, 1], at[:, 0], 0] / 255 for image, at in zip(images, points, strict=True)]
    values = np.concatenate(grey).astype(np.float32)
    return np.stack([values, 1 - values], axis=1)


def test_every_nucleus_is_judged_by_other_cases_alone(lab):
    scored = read_folds(brightness, EvaluationRequest("lab", lab, checkpoint="grey"), 3)
    assert [len(fold.class_ids) for fold in scored.folds] == [40, 40, 40]
    answer = knn_by_folds(scored, ks=(5, 20))
    assert answer["split"] == "3 folds by case"
    # C's classes are the other way round in its two images, and nothing of C says so to itself.
    assert sorted(answer["by_fold"])[0] == 0
    assert (answer["n_bank"], answer["n_nuclei"], set(answer["by_k"])) == (80, 120, {"5", "20"})
    assert answer["accuracy"] == pytest.approx(np.mean(answer["by_fold"]))


def test_a_linear_layer_is_chosen_by_the_fold_after(lab):
    scored = read_folds(brightness, EvaluationRequest("lab", lab, checkpoint="grey"), 3)
    answer = linear_by_folds(scored, settings=LinearSettings(epochs=3, learning_rate=1.0))
    assert len(answer["epochs"]) == len(answer["by_fold"]) == 3
    two = read_folds(brightness, EvaluationRequest("lab", lab, checkpoint="grey"), 2)
    with pytest.raises(ConfigError, match="--folds 2: a linear layer needs 3"):
        linear_by_folds(two)


def test_what_cannot_be_scored_is_said(lab):
    request = EvaluationRequest("lab", lab)
    with pytest.raises(ConfigError, match="--folds 4: needs 2 to 3, the number of cases"):
        read_folds(brightness, request, 4)
    for path in (lab / "labels").iterdir():
        path.write_text(path.read_text().replace("tumour", "lymphocyte"))
    with pytest.raises(ConfigError, match="all nuclei are lymphocyte; at least two classes"):
        read_folds(brightness, request, 3)
