"""What a run learns from, by the names that people give."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from muse_core.detector.augment import AugmentSettings
from muse_core.errors import ConfigError, DatasetError
from muse_core.evaluate.ndc import evaluate_ndc
from muse_core.evaluate.representation import EvaluationRequest
from muse_core.labels import PUMA_CLASS_NAMES, Surround
from muse_core.labels.regions import VALIDATION_REACH_UM, regions_of
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.data import data_of, published_data, unlabelled_regions
from muse_core.ndc.head import MARGIN_UM
from muse_core.ndc.promote import validation_of
from muse_core.ndc.samples import draw_sample
from muse_core.ndc.settings import FinetuneSettings
from tests.data.make_patches import CLASS_NAMES, draw_patch, write_brca
from tests.data.make_puma import write_puma
from tests.pretrain.views.drawn_rois import roi_row, write_dataset


def test_a_roi_dataset_gives_tissue_without_labels_at_its_own_scale(tmp_path):
    write_dataset(tmp_path, [roi_row(number) for number in range(3)])
    regions = unlabelled_regions(str(tmp_path), mpp=None)
    assert len(regions) == 3
    assert all(region.annotated is not None and not region.annotated.any() for region in regions)
    assert all(region.image.shape[2] == 3 and len(region.xy) == 0 for region in regions)
    assert len(unlabelled_regions(str(tmp_path), mpp=None, limit=2)) == 2
    sample = draw_sample(regions[0], 64, AugmentSettings(empty_share=0), np.random.default_rng(0))
    assert sample.seen.any()
    assert not sample.annotated.any()


def test_images_in_folders_of_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for index, name in enumerate(("x.png", "a/y.jpg", "a/b/z.tif")):
        cv2.imwrite(str(tmp_path / name), np.full((40, 50 + index, 3), 200, np.uint8))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    regions = unlabelled_regions(str(tmp_path), mpp=0.25)
    assert [(region.name, region.mpp) for region in regions] == [("z", 0.25), ("y", 0.25), ("x", 0.25)]
    with pytest.raises(ConfigError, match="give --unlabelled-mpp"):
        unlabelled_regions(str(tmp_path), mpp=None)


def test_a_folder_of_neither(tmp_path):
    with pytest.raises(DatasetError, match="neither a ROI dataset nor a folder of PNG, JPEG or TIFF images"):
        unlabelled_regions(str(tmp_path), mpp=0.5)


def test_a_published_dataset_brings_its_two_splits(tmp_path):
    write_brca(tmp_path, train=2, val=1, side_px=96, n_nuclei=4)
    data = data_of("brca-m2c", tmp_path, unlabelled=[], settings=FinetuneSettings())
    assert data.class_names == CLASS_NAMES
    assert ([one.name for one in data.labelled], [one.name for one in data.validation]) == (["t0", "t1"], ["v0"])
    with pytest.raises(ConfigError, match="dataset 'brca' is unknown"):
        data_of("brca", tmp_path, unlabelled=[], settings=FinetuneSettings())
    for index in range(2):
        (tmp_path / "labels" / f"t{index}_gt_class_coords.txt").write_text("")
    with pytest.raises(DatasetError, match="no nucleus is labelled in the training split"):
        published_data("brca-m2c", tmp_path)


def test_what_is_learned_scored_and_chosen_by_are_pumas_split_dots(tmp_path):
    """A plasma cell counts as a lymphocyte, as in the paper's table 3; representations take the polygons."""
    write_puma(tmp_path / "puma", ("train", "val"))
    data = published_data("puma", tmp_path / "puma")
    chosen_by = validation_of("puma", tmp_path / "puma", settings=FinetuneSettings())
    for region in (*data.labelled, *data.validation, *chosen_by.regions):
        np.testing.assert_array_equal(region.xy, [[20.5, 20.5], [101.5, 51.5]])
        assert [data.class_names[one] for one in region.class_ids] == ["tumour", "lymphocyte"]
    # A model that answers just these, at its own 0.5 um/px.
    found = NucleiFound(region.xy / 2, np.ones(2, np.float32), np.eye(3, dtype=np.float32)[region.class_ids], None)
    knowing = SimpleNamespace(class_names=PUMA_CLASS_NAMES, find=lambda images: [found])
    scores = evaluate_ndc(knowing, "puma", tmp_path / "puma")["protocols"]["puma"]["classes"]
    assert (scores["tumour"]["f1"], scores["lymphocyte"]["f1"]) == (1, 1)
    (patch,) = EvaluationRequest("puma", tmp_path / "puma").patches("val")
    assert [patch.class_names[one] for one in patch.class_ids] == ["tumour", "other"]
    (tmp_path / "puma" / "split" / "val.json").unlink()
    with pytest.raises(DatasetError, match=r"split.val\.json: cannot be read \(No such file or directory\); the split"):
        validation_of("puma", tmp_path / "puma", settings=FinetuneSettings())


def test_real_tissue_around_a_patch_is_taken_along(tmp_path):
    patch = draw_patch(96, 6, 0)
    around = np.full((200, 220, 3), 180, np.uint8)
    around[40:136, 60:156] = patch.image
    cv2.imwrite(str(tmp_path / "context.png"), around[:, :, ::-1])
    placed = replace(patch, surround=Surround(tmp_path / "context.png", 60, 40))
    (region,) = regions_of([placed], reach_um=1000.0)
    assert region.image.shape == (200, 220, 3)
    assert region.annotated.sum() == 96 * 96
    assert np.allclose(region.xy, patch.xy + np.array([60, 40]))
    assert region.is_annotated(region.xy).all()
    assert regions_of([placed])[0].image.shape == (96, 96, 3)
    with pytest.raises(DatasetError, match=r"context\.png: 220x200 px do not hold the 96x96 px of drawn at"):
        regions_of([replace(patch, surround=Surround(tmp_path / "context.png", 160, 40))], reach_um=10.0)


def test_validation_brings_as_much_tissue_around_a_patch_as_inference_does():
    assert VALIDATION_REACH_UM == MARGIN_UM
