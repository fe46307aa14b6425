"""Which µm/px is believed, and what is said where there is none."""

import math
from pathlib import Path

import numpy as np
import pytest

from muse_core.errors import MppError
from muse_core.slide import Mpp, open_slide
from muse_core.slide.mpp import mpp_notes, resolve_mpp
from tests.data.make_slides import Drawing, draw_aperio, draw_tiff

PATH = Path("a.svs")


def test_the_most_trusted_source_wins_whatever_the_order():
    candidates = [
        Mpp(0.2499, 0.25, "tiff.XResolution"),
        Mpp(0.25, 0.25, "aperio.MPP"),
        Mpp(0.2465, 0.25, "openslide.mpp-x"),
    ]
    assert resolve_mpp(PATH, candidates, None) == Mpp(0.2465, 0.25, "openslide.mpp-x")
    assert resolve_mpp(PATH, candidates[::-1], None).source == "openslide.mpp-x"


def test_an_override_beats_the_file():
    assert resolve_mpp(PATH, [Mpp(0.25, 0.25, "aperio.MPP")], 0.5) == Mpp(0.5, 0.5, "override")


@pytest.mark.parametrize("override", [0.0, -0.25, math.nan, math.inf])
def test_an_override_of_no_use(override):
    with pytest.raises(MppError, match="a positive number of µm/px is needed") as caught:
        resolve_mpp(PATH, [], override)
    assert caught.value.reason == "mpp_invalid"


@pytest.mark.parametrize("mpp", [25400 / 72, 25400 / 300, 25400 / 96, 150.0])
def test_print_settings_are_no_microscope(mpp):
    with pytest.raises(MppError, match="is a print setting, not a microscope's") as caught:
        resolve_mpp(PATH, [Mpp(mpp, mpp, "tiff.XResolution")], None)
    assert caught.value.reason == "mpp_missing"


@pytest.mark.parametrize("mpp", [0.05, 0.16, 1.0, 10.0, 28.969])
def test_microscope_figures_are_kept(mpp):
    assert resolve_mpp(PATH, [Mpp(mpp, mpp, "openslide.mpp-x")], None).x == mpp


def test_an_implausible_better_source_does_not_hide_a_good_one():
    candidates = [Mpp(math.nan, 0.25, "openslide.mpp-x"), Mpp(0.25, 0.25, "aperio.MPP")]
    assert resolve_mpp(PATH, candidates, None).source == "aperio.MPP"


@pytest.mark.parametrize("source", ["aperio.MPP", "openslide.mpp-x"])
@pytest.mark.parametrize("tag", [(0.5, 0.5), (0.25, 0.256), (0.2449, 0.25)])
def test_two_sources_more_than_two_percent_apart_are_an_error_that_names_both(source, tag):
    with pytest.raises(MppError, match=rf"{source} = 0.25 and tiff.XResolution = .*manifest's `mpp` column") as caught:
        resolve_mpp(PATH, [Mpp(*tag, "tiff.XResolution"), Mpp(0.25, 0.25, source)], None)
    assert caught.value.reason == "mpp_conflict"
    assert resolve_mpp(PATH, [Mpp(*tag, "tiff.XResolution"), Mpp(0.25, 0.25, source)], 0.3).source == "override"


@pytest.mark.parametrize("source", ["ome.PhysicalSizeX", "imagej.unit"])
def test_what_the_writing_program_says_itself_beats_a_generic_tag(source):
    candidates = [Mpp(0.5, 0.5, "tiff.XResolution"), Mpp(0.25, 0.25, source)]
    assert resolve_mpp(PATH, candidates, None) == Mpp(0.25, 0.25, source)
    assert "the file also says tiff.XResolution = 0.5" in mpp_notes(candidates, candidates[1])[0]


@pytest.mark.parametrize("mpp", [0.0, -0.25, math.inf, math.nan, 0.001])
def test_figures_that_say_nothing_are_none(mpp):
    for figure in (Mpp(mpp, 0.25, "ome.PhysicalSizeX"), Mpp(0.25, mpp, "ome.PhysicalSizeX")):
        with pytest.raises(MppError) as caught:
            resolve_mpp(PATH, [figure], None)
        assert caught.value.reason == "mpp_missing"


def test_missing_mpp_names_the_three_ways_to_give_one(tmp_path):
    path = draw_aperio(tmp_path / "a.svs", np.full((300, 300, 3), 200, np.uint8), Drawing(mpp=None))
    with pytest.raises(MppError) as caught:
        open_slide(path)
    for way in ("manifest's `mpp` column", "`--mpp`", "the file's own metadata"):
        assert way in str(caught.value)
    with open_slide(path, tolerate_missing_mpp=True) as slide:
        assert math.isnan(slide.info.mpp.x)
        assert slide.thumbnail(100).shape == (100, 100, 3)
        with pytest.raises(MppError, match="no µm/px is known"):
            slide.read_region(0, 0, 10, 10, mpp=0.25)
    with open_slide(path, mpp_override=0.3) as slide:
        assert slide.info.mpp == Mpp(0.3, 0.3, "override")


def test_each_axis_has_its_own(tmp_path):
    path = draw_tiff(tmp_path / "a.tif", np.full((300, 300, 3), 200, np.uint8), Drawing(mpp=(0.25, 0.5)))
    with open_slide(path) as slide:
        assert (slide.info.mpp.x, slide.info.mpp.y) == pytest.approx((0.25, 0.5), rel=1e-6)
