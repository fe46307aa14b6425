"""A slide of several files has changed when one of them has."""

from pathlib import Path

import pytest

from muse_core.errors import SlideChangedError
from muse_core.slide.file_state import SlideState


def mirax(folder: Path) -> Path:
    (folder / "S").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat", "Data0001.dat"):
        (folder / "S" / name).write_bytes(b"0123456789")
    (folder / "S.mrxs").write_bytes(b"mirax")
    return folder / "S.mrxs"


def test_an_untouched_slide_is_unchanged(tmp_path):
    state = SlideState.of(mirax(tmp_path))
    assert len(state.files) == 4
    state.check()


def test_a_data_file_that_grows_is_named(tmp_path):
    state = SlideState.of(mirax(tmp_path))
    (tmp_path / "S" / "Data0001.dat").write_bytes(b"0123456789 and more")
    with pytest.raises(SlideChangedError, match=r"Data0001\.dat: changes while it is read \(was 10 bytes and is 19\)"):
        state.check()


def test_a_data_file_that_goes_is_named(tmp_path):
    state = SlideState.of(mirax(tmp_path))
    (tmp_path / "S" / "Data0000.dat").unlink()
    with pytest.raises(SlideChangedError, match=r"Data0000\.dat: is gone while it is read"):
        state.check()
