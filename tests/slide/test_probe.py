"""A reader that dies is found out in a process of its own, once a kind of file."""

import sys

import pytest

from muse_core.errors import SlideReadError
from muse_core.slide import open_slide, probe
from muse_core.slide.probe import death_of
from tests.data.make_slides import Drawing, draw_tiff, tissue_image

DIES = "import os, sys; print('while cucim reads at x=0 y=0', flush=True); os.kill(os.getpid(), 11)"


@pytest.fixture
def slide_tif(tmp_path):
    return draw_tiff(tmp_path / "a.tif", tissue_image(300, 200)[0], Drawing(factors=(1,)))


def test_a_death_is_named_with_what_was_read(slide_tif, monkeypatch):
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", DIES))
    assert death_of(slide_tif) == "dies (SIGSEGV) while cucim reads at x=0 y=0"


def test_a_slide_that_reads_is_no_death(slide_tif):
    assert death_of(slide_tif) is None


def test_a_kind_that_kills_costs_its_slides_and_is_tried_once(slide_tif, tmp_path, monkeypatch):
    tried = tmp_path / "tried"
    code = f"open({str(tried)!r}, 'a').write('x'); {DIES}"
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(probe, "_USUAL", ())
    probe._cached_death.cache_clear()
    for path in (slide_tif, draw_tiff(tmp_path / "b.tif", tissue_image(300, 200)[0], Drawing(factors=(1,)))):
        with pytest.raises(SlideReadError, match=r"a reader of such files dies \(SIGSEGV\)"):
            open_slide(path)
    assert tried.read_text() == "x"
    probe._cached_death.cache_clear()
