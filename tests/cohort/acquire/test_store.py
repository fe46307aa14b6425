"""The store of slides: how many lie on the disk, and what a killed run leaves there."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muse_core.cohort.acquire import Acquired, SlideStore, acquire
from muse_core.errors import AcquireError, OutputError
from tests.cohort.acquire.served import DATA, Source, fetch, many, settings, slide_files
from tests.data.gdc_server import cut, drip, wrong_bytes


def test_disk_never_holds_more_than_the_set_number(server, tmp_path):
    most = 0

    def sample(_: str = "") -> None:
        nonlocal most
        most = max(most, len(slide_files(tmp_path)))

    def use(source: Source) -> bytes:
        with store.slide(source) as acquired:
            sample()
            assert acquired.transient
            time.sleep(0.01)
            return acquired.path.read_bytes()

    sources = many(server, 12)
    server.on_request = sample
    for source in sources[::3]:
        server.faults[source.uri.removeprefix("gdc://")] = [cut(50_000), wrong_bytes()]
    with (
        SlideStore(tmp_path, settings(server), keep=False, max_slides_on_disk=3) as store,
        ThreadPoolExecutor(4) as pool,
    ):
        assert list(pool.map(use, sources)) == [DATA] * 12
    assert 2 <= most <= 3
    assert slide_files(tmp_path) == []


def test_a_failed_slide_frees_its_slot(server, tmp_path):
    sources = many(server, 3)
    with SlideStore(tmp_path, settings(server), keep=False, max_slides_on_disk=1) as store:
        with pytest.raises(AcquireError), store.slide(Source("gdc://99999999-2222-3333-4444-555555555555")):
            pass
        with pytest.raises(ZeroDivisionError), store.slide(sources[0]):
            raise ZeroDivisionError
        with store.slide(sources[1]) as acquired:
            assert acquired.path.exists()
    assert slide_files(tmp_path) == []


def test_closing_ends_the_wait_for_a_slot(server, tmp_path):
    sources = many(server, 2)
    store = SlideStore(tmp_path, settings(server), keep=False, max_slides_on_disk=1)
    with store.slide(sources[0]):
        threading.Timer(0.1, store.close).start()
        with pytest.raises(AcquireError, match="the run is ending") as caught, store.slide(sources[1]):
            pass
    assert caught.value.reason == "run_ended"


def test_kept_slides_stay_and_are_fetched_once(server, tmp_path):
    with SlideStore(tmp_path, settings(server)) as store, ThreadPoolExecutor(4) as pool:

        def use(source: Source) -> Path:
            with store.slide(source) as acquired:
                return acquired.path

        paths = set(pool.map(use, [Source()] * 4))
    assert [path.read_bytes() for path in paths] == [DATA]
    assert len(server.requests) == 1


def test_local_slides_take_no_slot_and_are_never_deleted(server, tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(DATA)
    store = SlideStore(tmp_path / "slides", keep=False, max_slides_on_disk=1)
    with store.slide(Source(str(path))) as one, store.slide(Source(str(path))) as two:
        assert one.path == two.path == path
        assert not one.transient
    assert path.exists()


def test_downloads_at_once_are_bounded_apart_from_slots(server, tmp_path):
    at_once = most = 0
    mutex = threading.Lock()

    def get(source: Source, folder: Path) -> Acquired:
        nonlocal at_once, most
        with mutex:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        acquired = acquire(source, folder, settings(server))
        with mutex:
            at_once -= 1
        return acquired

    def use(source: Source) -> None:
        with store.slide(source, get):
            pass

    store = SlideStore(tmp_path, settings(server, max_downloads=2), keep=False, max_slides_on_disk=6)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, many(server, 12)))
    assert most == 2


KILLED = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from muse_core.cohort.acquire import AcquireSettings, SlideStore
    from tests.cohort.acquire.served import Source
    url, folder, *ids = sys.argv[1:]
    store = SlideStore(Path(folder), AcquireSettings(gdc_url=url), keep=False, max_slides_on_disk=2)
    with store.slide(Source(ids[0], slide_id="slide 0")) as one:
        print("fetched", flush=True)
        with store.slide(Source(ids[1], slide_id="slide 1")):
            time.sleep(60)
    """
)


def test_what_a_killed_run_left_is_resumed_or_replaced(server, tmp_path):
    first, second, third = many(server, 3)
    dripping = second.uri.removeprefix("gdc://")
    server.faults[dripping] = [drip(0.001)]
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path), first.uri, second.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as run:
        assert run.stdout.readline() == b"fetched\n"
        while not any(path.suffix == ".part" and path.stat().st_size for path in slide_files(tmp_path)):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    assert len(slide_files(tmp_path)) == 2
    server.requests.clear()
    store = SlideStore(tmp_path, settings(server), keep=False, max_slides_on_disk=2)
    with store.slide(second) as acquired:
        assert acquired.path.read_bytes() == DATA
        assert server.ranges[0].startswith("bytes=")
        with store.slide(third):
            assert len(slide_files(tmp_path)) == 2  # the first slide's file had to go
    assert slide_files(tmp_path) == []


def test_a_smaller_bound_clears_what_a_larger_one_left(server, tmp_path):
    leftover = tmp_path / ".slots" / "slot-005" / "x" / "x.svs"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"old")
    with SlideStore(tmp_path, settings(server), keep=False, max_slides_on_disk=2) as store, store.slide(Source()):
        assert not leftover.exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_that_cannot_be_made_is_an_output_error(server, tmp_path, keep):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = SlideStore(blocked, settings(server), keep=keep)
    with pytest.raises(OutputError, match="file"), store.slide(Source()):
        pass
    with pytest.raises(OutputError, match="file"):
        fetch(server, blocked)
    assert server.requests == []
