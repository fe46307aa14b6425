"""A reader that dies is found out in a process of its own, once a kind of file."""

import subprocess
import sys
import threading

import pytest
import tifffile

from muse_core.errors import SlideReadError
from muse_core.slide import choose, open_slide, probe
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


def test_a_slow_reader_that_says_where_it_is_is_not_dead(slide_tif, monkeypatch):
    talks = "import time\nwhile True: print('while it reads', flush=True); time.sleep(0.05)"
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", talks))
    monkeypatch.setattr(probe, "_SILENT_S", 0.5)
    monkeypatch.setattr(probe, "_LONGEST_S", 1.0)
    assert death_of(slide_tif) is None


@pytest.mark.parametrize(("first", "found"), [("", None), ("print('while it opens', flush=True);", "while it opens")])
def test_silence_is_hanging_once_a_reader_is_at_the_file(slide_tif, monkeypatch, first, found):
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", f"import time; {first} time.sleep(60)"))
    monkeypatch.setattr(probe, "_SILENT_S", 0.5)
    monkeypatch.setattr(probe, "_LONGEST_S", 60.0 if first else 1.0)  # a start takes long on a busy machine
    assert death_of(slide_tif) == (found and f"hangs for over 0.5 s {found}")


def test_no_more_than_two_are_tried_at_once(slide_tif, tmp_path, monkeypatch):
    """Each leaves its start and end behind."""
    code = (
        f"import time; f = open({str(tmp_path / 'log')!r}, 'a', buffering=1);"
        " f.write('+'); f.flush(); time.sleep(0.3); f.write('-')"
    )
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-S", "-c", code))
    threads = [threading.Thread(target=death_of, args=(slide_tif,)) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    running, most = 0, 0
    for mark in (tmp_path / "log").read_text():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert (running, most) == (0, 2)


def test_the_picture_that_a_run_would_read_is_tried(tmp_path, monkeypatch):
    """The second of two."""
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as tiff:
        for width in (700, 600):
            image = tissue_image(width, 500, seed=2)[0]
            tiff.write(image, tile=(256, 256), photometric="rgb", compression="lzw", metadata=None)
    for scene, width in ((1, 700), (2, 600)):
        asked = [sys.executable, "-m", "muse_core.slide.probe_child", path, "--scene", str(scene)]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert f"at x={width * 3 // 4} y=375" in said


def test_a_kind_that_kills_costs_its_slides_and_is_tried_once_before_any_reader_opens_it(
    slide_tif, tmp_path, monkeypatch
):
    def opened(path):
        raise AssertionError(f"{path} was opened here")

    monkeypatch.setattr(choose, "OpenSlideReader", opened)
    tried = tmp_path / "tried"
    code = f"open({str(tried)!r}, 'a').write('x'); {DIES}"
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(probe, "_USUAL", ())
    probe._cached_death.cache_clear()
    for path in (slide_tif, draw_tiff(tmp_path / "b.tif", tissue_image(300, 200)[0], Drawing(factors=(1,)))):
        with pytest.raises(SlideReadError, match=r"a reader of such files dies \(SIGSEGV\)") as caught:
            open_slide(path)
        assert caught.value.reason == "reader_died"
    assert tried.read_text() == "x"
    (tmp_path / "c.mrxs").write_bytes(b"whatever this is")
    with pytest.raises(SlideReadError, match="dies"):
        open_slide(tmp_path / "c.mrxs")
    assert tried.read_text() == "xx"
    probe._cached_death.cache_clear()
