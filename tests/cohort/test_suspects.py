"""A slide that kills the process costs itself: the next run reads what was in work in a process of its own first."""

import os
import subprocess
import sys

import pytest

from muse_core.cohort.suspects import Suspects
from muse_core.errors import SlideReadError
from muse_core.slide import probe
from tests.build.test_run import build, slide_rows
from tests.data.make_slides import Drawing, draw_tiff, tissue_image

DIES = "import os, sys; print('while a reader opens the file', flush=True); os.kill(os.getpid(), 11)"
RUN = """
import os, sys
from pathlib import Path
from muse_core.slide import slide as slide_module
from tests.build.test_run import build

read = slide_module.Slide.read_level
def deadly(self, *place, **how):
    if self.info.path.name == "deadly.tif":
        os.kill(os.getpid(), 11)
    return read(self, *place, **how)
slide_module.Slide.read_level = deadly
build(Path(sys.argv[1]), Path(sys.argv[2]), overrides=["detector=none", "rois.size_px=256"])
"""


def test_what_is_marked_is_a_suspect_of_the_next_run_alone(tmp_path):
    first = Suspects(tmp_path / "marks")
    with first.in_work("a/b"):
        second = Suspects(tmp_path / "marks")
    path = draw_tiff(tmp_path / "a.tif", tissue_image(300, 200)[0], Drawing(factors=(1,)))
    first.check("a/b", path)
    second.check("a/b", path)  # its file is sound, which a process of its own found out
    assert not list((tmp_path / "marks").iterdir())


def test_a_run_that_ends_by_itself_leaves_no_mark(tmp_path):
    suspects = Suspects(tmp_path / "marks")
    held = suspects.in_work("a")
    held.__enter__()
    suspects.forget()
    assert not list((tmp_path / "marks").iterdir())


def test_a_suspect_that_kills_again_is_refused(tmp_path, monkeypatch):
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "a").touch()
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", DIES))
    with pytest.raises(SlideReadError, match=r"its reader dies \(SIGSEGV\) while a reader opens the file") as caught:
        Suspects(tmp_path / "marks").check("a", tmp_path / "a.tif")
    assert caught.value.reason == "reader_died"


@pytest.mark.slow
def test_a_slide_that_kills_a_run_costs_itself_in_the_next(tmp_path, monkeypatch):
    """The first run dies of it; run again, it is told apart and the other slide is done."""
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    for name, seed in (("deadly", 1), ("good", 2)):
        draw_tiff(folder / f"{name}.tif", tissue_image(600, 500, mpp=0.5, seed=seed)[0], Drawing(mpp=(0.5, 0.5)))
    died = subprocess.run([sys.executable, "-c", RUN, folder, out], capture_output=True, check=False, env=os.environ)
    assert died.returncode == -11
    assert "deadly" in {one.name for one in (out / ".in-work").iterdir()}
    code = f"import sys; {DIES.replace('import os, sys; ', 'import os; ')}" + " if 'deadly' in sys.argv[1] else None"
    monkeypatch.setattr(probe, "_COMMAND", (sys.executable, "-c", code))
    build(folder, out, overrides=["detector=none", "rois.size_px=256"])
    rows = slide_rows(out)
    assert (rows["deadly"]["status"], rows["deadly"]["reason"]) == ("failed", "reader_died")
    assert rows["good"]["status"] == "done"
    assert not list((out / ".in-work").iterdir())
