"""Datasets that went over a Mac or through Windows' editors: `._` files beside each file, byte order marks in texts."""

import json
from pathlib import Path

import numpy as np
import pytest

from muse_core.config import load_settings
from muse_core.infer import InferSettings
from muse_core.labels import read_labelled_patches
from muse_core.labels.lab import read_lab
from tests.data.make_lab import point, write_geojson, write_image
from tests.data.make_patches import write_brca
from tests.data.make_puma import write_puma
from tests.labels import test_consep, test_nuinsseg, test_ocelot

_TEXTS = (".txt", ".csv", ".json", ".geojson", ".toml")
_SHADOW = b"\0\5\26\7\0\2\0\0Mac OS X        \xff\xfe"


def write_ocelot(root: Path) -> None:
    test_ocelot.write_sample(root, "001", "train", "10,20,1\n30,40,2\n")
    (root / "metadata.json").write_text(json.dumps({"sample_pairs": {"001": test_ocelot.SAMPLE}}))


def write_nuinsseg(root: Path) -> None:
    for organ in test_nuinsseg.ORGANS:
        test_nuinsseg.write_image(root / organ, f"{organ.replace(' ', '_')}_1", vague=True)


def write_consep(root: Path) -> None:
    for number in range(1, 6):
        test_consep.write_image(root / "Train", f"train_{number}")


def carry_over(root: Path) -> None:
    """What foreign disks and editors do to a folder."""
    for path in [one for one in root.rglob("*") if one.is_file()]:
        if path.suffix in _TEXTS:
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        path.with_name(f"._{path.name}").write_bytes(_SHADOW)
    (root / ".DS_Store").write_bytes(_SHADOW)


@pytest.mark.parametrize(
    ("layout", "write", "split"),
    [
        ("brca-m2c", write_brca, "train"),
        ("ocelot", write_ocelot, "train"),
        ("puma", write_puma, "val"),
        ("nuinsseg", write_nuinsseg, "val"),
        ("consep", write_consep, "val"),
    ],
)
def test_published_layouts_read_the_same(tmp_path, layout, write, split):
    write(tmp_path)
    before = read_labelled_patches(layout, tmp_path, split)
    carry_over(tmp_path)
    after = read_labelled_patches(layout, tmp_path, split)
    assert [patch.name for patch in after] == [patch.name for patch in before]
    assert before
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.xy, other.xy)
        np.testing.assert_array_equal(one.class_ids, other.class_ids)


def test_a_labs_folder_reads_the_same(tmp_path):
    write_image(tmp_path, "a")
    write_geojson(tmp_path, "a", [point(30, 40, "Tumour"), point(90, 60, "Immune")])
    (tmp_path / "dataset.toml").write_text("mpp = 0.5\nclasses = ['Immune', 'Tumour']\n")
    before = read_lab(tmp_path)
    carry_over(tmp_path)
    after = read_lab(tmp_path)
    assert after.class_names == before.class_names == ("Immune", "Tumour")
    np.testing.assert_array_equal(after.images[0].xy, before.images[0].xy)
    assert len(after.images) == 1


def test_settings_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "infer.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b"min_score = 0.25\n")
    assert load_settings(InferSettings, path, ()).min_score == 0.25
