"""Pictures read from the slide, kept, and missing."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.pictures import find_pictures, keep_pictures, pictured
from muse_core.report.scan import scan_slide
from muse_core.report.settings import ReportSettings
from muse_core.report.view import view_of
from muse_core.slide import open_slide
from tests.report.conftest import SIZE

SETTINGS = ReportSettings(typical=2, doubtful=3, thumbnail_px=200)


@pytest.fixture
def out(inferred, tmp_path):
    return shutil.copytree(inferred, tmp_path / "out")


@pytest.fixture
def view(out):
    return view_of(NucleiDataset(out), "S1", out / "tissue" / "S1.geojson", SIZE)


@pytest.fixture
def chosen(out, view):
    return pictured(scan_slide(NucleiDataset(out), "S1", view, SETTINGS))


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def test_a_nucleus_is_in_the_middle_of_its_picture(out, view, chosen, drawn):
    found = find_pictures(out, "S1", str(drawn[0]), view, chosen, SETTINGS)
    assert len(found.nuclei) == len(chosen) == 9
    for jpeg in found.nuclei.values():
        picture = pixels(jpeg)
        assert picture.shape == (128, 128, 3)
        assert picture[58:70, 58:70, 0].mean() < 130  # haematoxylin; eosin around it is 226
    overview = pixels(found.overview)
    assert max(overview.shape) == 200
    assert overview[2, 2].min() > 230  # glass
    assert overview[overview.shape[0] // 2, overview.shape[1] // 2, 1] < 200  # tissue


def test_kept_pictures_are_those_of_the_slide_and_outlive_it(out, view, chosen, drawn):
    read = find_pictures(out, "S1", str(drawn[0]), view, chosen, SETTINGS)
    (out / "pictures" / "S1").mkdir(parents=True)
    (out / "pictures" / "S1" / "77.jpg").write_bytes(b"of an earlier run")
    with open_slide(drawn[0]) as slide:
        keep_pictures(out, "S1", slide, SETTINGS)
    kept = find_pictures(out, "S1", "/gone/slide.svs", view, chosen, SETTINGS)
    assert kept == read
    assert not (out / "pictures" / "S1" / "77.jpg").exists()


@pytest.mark.parametrize("uri", [None, "/gone/slide.svs", "s3://bucket/slide.svs"])
def test_a_slide_that_is_not_at_hand_is_said(out, view, chosen, uri):
    found = find_pictures(out, "S1", uri, view, chosen, SETTINGS)
    assert (found.overview, found.nuclei) == (None, {})
    assert "not at hand" in found.note


def test_a_slide_that_is_broken_is_said(out, view, chosen, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"not a slide")
    found = find_pictures(out, "S1", str(broken), view, chosen, SETTINGS)
    assert found.overview is None
    assert "cannot be read any more" in found.note
