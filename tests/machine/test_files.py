"""Files written whole or not at all, and names that stay in their folder."""

import os
import threading
from pathlib import Path

import pytest

from muse_core.errors import OutputError
from muse_core.machine.files import safe_name, sweep_temporaries, whole_file


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with whole_file(tmp_path / "deep" / "a.txt") as path:
        path.write_text("whole")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    with pytest.raises(RuntimeError), whole_file(tmp_path / "deep" / "a.txt") as path:  # noqa: PT012
        path.write_text("half")
        raise RuntimeError
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_many_threads_leave_the_umask_alone(tmp_path):
    before = os.umask(0o027)
    try:

        def write(number: int) -> None:
            for turn in range(50):
                with whole_file(tmp_path / f"{number}-{turn}") as path:
                    path.write_text("x")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_folder_that_cannot_be_made_is_an_output_error():
    with pytest.raises(OSError, match="none"), whole_file(Path("/proc/none/a")):
        pass


def test_disk_full_is_told_as_such(tmp_path):
    with pytest.raises(OutputError) as caught, whole_file(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert caught.value.reason == "disk_full"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("TCGA-A8-A099-01Z-00-DX1", "TCGA-A8-A099-01Z-00-DX1"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a b", "a%20b"),
        ("😐", "%F0%9F%98%90"),
    ],
)
def test_names_are_safe_and_distinct(name, safe):
    assert safe_name(name) == safe


def test_only_temporaries_are_swept(tmp_path):
    for name in (".a.json.1234.tmp", "keep.tmp", ".keep"):
        (tmp_path / name).write_text("")
    sweep_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "keep.tmp"]
