"""Output folders in an object store: same tables as a folder's, whenever a run is killed and wherever it goes on."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from muse_core.cohort import lease
from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.output import output_of
from muse_core.cohort.status import read_status, status_text
from muse_core.errors import OutputError
from tests.cohort.toy_work import do_toys, toy_run


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts the process onto another machine: with a working folder and a name of its own."""

    def become(name: str) -> None:
        monkeypatch.setenv("MUSE_WORK", str(tmp_path / name))
        monkeypatch.setattr("muse_core.cohort.heartbeat.socket.gethostname", lambda: name)

    become("first")
    return become


@pytest.fixture
def store(tmp_path):
    """An empty store's folder; its name is the test's own, for the store is the process'."""
    url = f"memory://{tmp_path.name}/out"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(tmp_path.name):
        files.rm(tmp_path.name, recursive=True)


@pytest.fixture
def slides(tmp_path) -> dict[str, str]:
    found = {}
    for name, letters in (("A", "abc"), ("B b/ü", "d"), ("C", "ef")):
        path = tmp_path / f"{name[0]}.svs"
        path.write_text(letters)
        found[name] = str(path)
    return found


def contents(out: str) -> dict[str, object]:
    """What a folder or a store's holds, without what tells of the run rather than of its results."""
    if "://" in out:
        folder = ObjectFolder(out)
        named = {name: folder.read(name) for name in folder.states() if not name.startswith(".lease")}
    else:
        named = {str(one.relative_to(out)): one.read_bytes() for one in Path(out).rglob("*") if one.is_file()}
        named = {name: data for name, data in named.items() if not name.startswith((".", "run.json"))}
    found: dict[str, object] = {}
    for name, data in named.items():
        if name.endswith(".parquet"):
            columns = [one for one in pq.read_schema(_as_file(data)).names if one not in ("seconds", "versions")]
            found[name] = pq.read_table(_as_file(data), columns=columns).to_pydict()
        elif name.startswith("records/"):
            values = json.loads(data)
            found[name] = (values["row"]["status"], values["inputs_hash"], values["parts"])
        elif name.startswith(("tissue/", "command")):
            found[name] = data
    return found


def _as_file(data):
    import io

    return io.BytesIO(data)


def test_a_store_gets_what_a_folder_gets(machine, store, slides, tmp_path):
    do_toys(str(tmp_path / "out"), slides)
    summary, worked = do_toys(store, slides)
    assert (summary.slides_done, worked) == (3, sorted(slides))
    assert contents(store) == contents(str(tmp_path / "out"))
    assert list(output_of(store).path.rglob("part-*.parquet")) == [], "parts do not pile up on this machine"
    assert do_toys(store, slides)[1] == []
    machine("second")
    summary, worked = do_toys(store, slides)
    assert (summary.slides_reused, worked) == (3, []), "another machine finds all done"
    assert output_of(store).paths.shown(output_of(store).paths.slides_table) == f"{store}/slides.parquet"


def test_a_changed_slide_is_replaced_and_a_broken_one_kept(machine, store, slides, tmp_path):
    do_toys(store, slides)
    Path(slides["A"]).write_text("xy")
    machine("second")
    assert do_toys(store, slides)[1] == ["A"]
    do_toys(str(tmp_path / "out"), slides)
    assert contents(store) == contents(str(tmp_path / "out")), "no third part is left of the first A"
    Path(slides["A"]).unlink()
    summary, _ = do_toys(store, slides)
    assert summary.slides_failed == 1
    kept = contents(store)
    assert [name for name in kept if name.startswith("nuclei/P/A/")] == [f"nuclei/P/A/part-{n}.parquet" for n in (0, 1)]
    assert kept["records/A.json"][0] == "done"


class Doomed:
    """Makes this process' calls to stores end at the n-th that changes something, or after it, and all later ones."""

    def __init__(self, monkeypatch, at: int, *, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after
        for name in ("write", "create", "upload", "delete"):
            monkeypatch.setattr(ObjectFolder, name, self._counted(getattr(ObjectFolder, name)))
        for name in ("read", "states", "state", "download"):
            monkeypatch.setattr(ObjectFolder, name, self._passed(getattr(ObjectFolder, name)))

    def _counted(self, call):
        def counted(*args):
            self.count += 1
            if self.count > self.at or (self.count == self.at and not self.after):
                raise Killed
            answer = call(*args)
            if self.count == self.at:
                raise Killed
            return answer

        return counted

    def _passed(self, call):
        def passed(*args):
            if self.count >= self.at:
                raise Killed
            return call(*args)

        return passed


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_killed_at_any_call_it_goes_on_and_the_tables_are_the_same(
    after, elsewhere, machine, store, slides, tmp_path, monkeypatch
):
    first = {"A": slides["A"]}
    do_toys(store, first)
    Path(slides["A"]).write_text("xy")  # one slide to replace, two to add
    do_toys(str(tmp_path / "out"), slides)
    wanted, before = contents(str(tmp_path / "out")), ObjectFolder(store)
    start = {name: before.read(name) for name in before.states()}
    monkeypatch.setattr(lease, "SILENT_S", 0.0)
    monkeypatch.setattr(lease, "_WATCH_S", 0.0)
    at = 0
    while True:
        at += 1
        for name in set(before.states()) - set(start):
            before.delete([name])
        for name, data in start.items():
            before.write(name, data)
        shutil.rmtree(tmp_path / "first", ignore_errors=True)
        shutil.rmtree(tmp_path / "second", ignore_errors=True)
        machine("first")
        with monkeypatch.context() as own:
            doomed = Doomed(own, at, after=after)
            with suppress(Killed):
                do_toys(store, slides)
        if doomed.count < at:
            break  # it came to its end: there is no call left to be killed at
        if elsewhere:
            machine("second")
        summary, _ = do_toys(store, slides)
        assert summary.slides_done == 3
        assert contents(store) == wanted, f"killed at call {at}"
    assert at > 15


def test_a_second_writer_is_refused_and_a_silent_one_is_taken_over_from(machine, store, slides, monkeypatch):
    with toy_run(store) as run:
        machine("second")
        with pytest.raises(OutputError, match=r"another run \(process \d+ on first\) is writing here") as caught:
            do_toys(store, slides)
        assert caught.value.reason == "output_locked"
        status = read_status(store)
        assert (status.state, status.run.host) == ("running", "first")
        # The first one is held up for longer than a lease lasts.
        monkeypatch.setattr(lease, "SILENT_S", -1.0)
        monkeypatch.setattr(lease, "_WATCH_S", 0.0)
        assert do_toys(store, slides)[0].slides_done == 3
        with pytest.raises(OutputError, match="another one has taken over") as caught:
            run.keep_tables()
        assert caught.value.reason == "output_lost"
    status = read_status(store)
    assert (status.state, status.done, status.n_nuclei) == ("at rest", 3, 6)
    assert "3 done" in status_text(status)


def test_another_command_s_folder_is_refused(machine, store, slides):
    ObjectFolder(store).write("command.txt", b"build-tcga-nu\n")
    with pytest.raises(OutputError, match=f"{store}: holds what `muse build-tcga-nu` made"):
        do_toys(store, slides)


def test_an_object_without_md5_is_known_by_its_version(machine, store, tmp_path):
    files = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}/slides/s.svs"
    files.pipe_file(url, b"abc")
    assert do_toys(store, {"S": url})[1] == ["S"]
    assert do_toys(store, {"S": url})[1] == []
    files.pipe_file(url, b"xyz")  # the same size
    assert do_toys(store, {"S": url})[1] == ["S"]
    assert contents(store)["nuclei/P/S/part-0.parquet"]["letter"] == ["x"], "and fetched again"
