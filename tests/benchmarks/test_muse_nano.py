"""The dataset that muse-nano is trained anew on: what validates is not in it; its recipe runs."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.muse_nano import RECIPE, tissue, write_dataset, write_whole_dataset
from muse_core.pretrain.settings import load_pretrain_settings
from muse_core.pretrain.trainer import pretrain
from muse_core.roi_dataset.dataset import RoiDataset
from tests.data.make_patches import draw_patch, write_brca
from tests.pretrain.tiny_runs import OVERRIDES


def test_images_that_validate_are_left_out_and_the_recipe_trains_on_the_rest(tmp_path):
    write_brca(tmp_path / "brca", train=3, val=2, side_px=320, n_nuclei=40)
    datasets = tmp_path / "datasets.toml"
    text = 'classes = ["lymphocyte"]\n[[dataset]]\nname = "brca-m2c"\nlayout = "brca-m2c"\ndata = "brca"\n'
    datasets.write_text(text)
    (tmp_path / "more").mkdir()
    cv2.imwrite(str(tmp_path / "more" / "u.png"), draw_patch(400, 50, 9).image)
    cv2.imwrite(str(tmp_path / "more" / "small.png"), np.full((100, 400, 3), 200, np.uint8))
    assert write_dataset(tissue(datasets, tmp_path, tmp_path / "more", 0.25), tmp_path / "out") == 4
    dataset = RoiDataset(tmp_path / "out")
    assert sorted(dataset.ids) == ["brca-m2c_t0", "brca-m2c_t1", "brca-m2c_t2", "unlabelled_u"]
    assert sorted(dataset.table(["mpp"])["mpp"].to_pylist()) == [0.25, 0.5, 0.5, 0.5]
    assert min(dataset.table(["n_nuclei"])["n_nuclei"].to_pylist()[:3]) > 10
    recipe = load_pretrain_settings(Path(RECIPE), [])
    assert (recipe.batch_norm, recipe.views.global_mpp, recipe.backbone.imagenet) == ("frozen", (0.3, 0.6), True)
    short = ("steps=2", "optimiser.freeze_stages=0", "standardised_at_mpp=0.5")
    result = pretrain(
        tmp_path / "out", tmp_path / "run", settings=load_pretrain_settings(Path(RECIPE), [*OVERRIDES, *short])
    )
    assert result.step == 2
    assert result.backbone.exists()


def test_a_dataset_of_a_run_that_was_killed_is_not_taken_for_a_finished_one(tmp_path):
    def killed():
        yield "p", "a", draw_patch(320, 40, 1).image, 0.25
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole_dataset(killed(), tmp_path)
    stale = tmp_path / "rois.part" / "rois" / "q" / "part-a-0000.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    assert not (tmp_path / "rois").exists()
    write_whole_dataset(iter([("p", "a", draw_patch(320, 40, 1).image, 0.25)]), tmp_path)
    assert RoiDataset(tmp_path).ids == ["p_a"]
    assert not (tmp_path / "rois.part").exists()
