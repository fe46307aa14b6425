"""Fetching slides from a real server on loopback that misbehaves on purpose."""

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from muse_core.acquire import Acquired, AcquireSettings, SlideStore, acquire, local_path
from muse_core.acquire.fetch import _source_key, slide_file
from muse_core.acquire.partial import PartialFile
from muse_core.errors import AcquireError, OutputError
from muse_core.retry import RetrySettings
from tests.data.gdc_server import (
    GdcServer,
    cut,
    drip,
    error_page,
    ignores_range,
    long_length,
    short_length,
    silence,
    status,
    wrong_bytes,
    wrong_start,
)

ID = "11111111-2222-3333-4444-555555555555"
DATA = random.Random(7).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
QUICK = RetrySettings(max_attempts=3, first_wait_s=0.005, longest_wait_s=0.02)


@dataclass(frozen=True)
class Source:
    uri: str = f"gdc://{ID}"
    size: int | None = len(DATA)
    md5: str | None = MD5
    slide_id: str = "TCGA-A8-A099-01Z-00-DX1"


@pytest.fixture
def server():
    with GdcServer({ID: DATA}) as server:
        yield server


def settings(server: GdcServer, **changes) -> AcquireSettings:
    values = {"gdc_url": server.url, "retry": QUICK, "min_progress_bytes": 10_000}
    return AcquireSettings(**values | changes)


def fetch(server: GdcServer, folder: Path, source: Source = Source(), **changes) -> Acquired:
    return acquire(source, folder, settings(server, **changes))


def slide_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".svs", ".part"))]


def assert_whole(acquired: Acquired, folder: Path) -> None:
    assert acquired.path.read_bytes() == DATA
    assert (acquired.md5, acquired.size, acquired.transient) == (MD5, len(DATA), False)
    assert slide_files(folder) == [acquired.path]  # no unfinished file is left


def test_fetches_a_gdc_slide(server, tmp_path):
    acquired = fetch(server, tmp_path)
    assert_whole(acquired, tmp_path)
    assert acquired.path == tmp_path / "TCGA-A8-A099-01Z-00-DX1" / "TCGA-A8-A099-01Z-00-DX1.svs"
    assert [(request.path, request.accept_encoding) for request in server.requests] == [(f"/data/{ID}", "identity")]


def test_a_fetched_slide_is_not_fetched_again(server, tmp_path):
    first = fetch(server, tmp_path)
    assert fetch(server, tmp_path) == first
    assert len(server.requests) == 1


def test_the_record_is_one_that_md5sum_reads(server, tmp_path):
    acquired = fetch(server, tmp_path)
    lines = acquired.path.with_name(acquired.path.name + ".md5").read_text().splitlines()
    assert lines[1] == f"{MD5}  {acquired.path.name}"


def test_a_file_changed_since_is_fetched_again(server, tmp_path):
    acquired = fetch(server, tmp_path)
    acquired.path.write_bytes(DATA[:-1] + b"?")
    os.utime(acquired.path, ns=(time.time_ns() + 10**9,) * 2)
    there: list[Path] = []
    server.on_request = lambda _: there.extend(slide_files(tmp_path))
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert len(server.requests) == 2
    assert [path.suffix for path in there] == [".part"]  # the damaged file did not lie there beside its successor


def test_another_uri_under_the_same_id_is_fetched(server, tmp_path):
    server.files["other"] = DATA[::-1]
    source = Source(f"{server.url}/data/{ID}", None, None)
    fetch(server, tmp_path, source)
    other = fetch(server, tmp_path, Source(f"{server.url}/data/other", None, None))
    assert other.path.read_bytes() == DATA[::-1]


def test_cut_connections_are_resumed_where_they_ended(server, tmp_path):
    server.faults[ID] = [cut(100_000), cut(50_000), cut(20_000), cut(20_000)]  # more than attempts: each brings much
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=170000-", "bytes=190000-"]
    assert all(request.if_range for request in server.requests[1:])


def test_gives_up_when_cuts_bring_nothing(server, tmp_path):
    server.faults[ID] = [cut(10)] * 3
    with pytest.raises(AcquireError, match=f"^gdc://{ID}: RemoteProtocolError.*; given up, run again later$") as caught:
        fetch(server, tmp_path)
    assert caught.value.reason == "download_failed"
    assert len(server.requests) == 3


def test_goes_on_after_a_failed_run(server, tmp_path):
    server.faults[ID] = [cut(100_000)]
    with pytest.raises(AcquireError):
        fetch(server, tmp_path, retry=RetrySettings(max_attempts=1))
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, "bytes=100000-"]


def test_a_part_of_another_version_is_not_built_on(server, tmp_path):
    source = Source(size=None, md5=None)  # only the ETag can tell
    server.faults[ID] = [cut(100_000)]
    with pytest.raises(AcquireError):
        fetch(server, tmp_path, source, retry=RetrySettings(max_attempts=1))
    server.files[ID] = DATA[::-1]
    assert fetch(server, tmp_path, source).path.read_bytes() == DATA[::-1]
    assert server.ranges == [None, "bytes=100000-"]


def test_without_etag_or_md5_nothing_is_resumed(server, tmp_path):
    server.with_etag = False
    server.faults[ID] = [cut(100_000)]
    assert_whole(fetch(server, tmp_path, Source(md5=None)), tmp_path)
    assert server.ranges == [None, None]


def test_with_md5_alone_it_is_resumed(server, tmp_path):
    server.with_etag = False
    server.faults[ID] = [cut(100_000)]
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_that_ignores_range_is_read_from_the_start(server, tmp_path):
    server.faults[ID] = [cut(100_000), ignores_range()]
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_that_goes_on_elsewhere_is_read_from_the_start(server, tmp_path):
    server.faults[ID] = [cut(100_000), wrong_start()]
    assert_whole(fetch(server, tmp_path, max_bad_files=1), tmp_path)
    assert server.ranges == [None, "bytes=100000-", None]


def test_a_part_of_another_source_is_not_built_on(tmp_path):
    for key, size in (("one", 0), ("one", 3), ("two", 0)):
        with PartialFile(tmp_path / "a.svs", key) as part:
            assert part.size == size
            part.append(b"abc"[size:])


def test_a_part_that_is_whole_already_needs_no_byte(server, tmp_path):
    server.faults[ID] = [long_length(5)]
    assert_whole(fetch(server, tmp_path, Source(size=None)), tmp_path)
    assert server.ranges == [None, f"bytes={len(DATA)}-"]  # answered 416: nothing after the end


def test_a_part_longer_than_the_file_starts_again(server, tmp_path):
    server.faults[ID] = [cut(100_000)]
    with pytest.raises(AcquireError):
        fetch(server, tmp_path, Source(size=None), retry=RetrySettings(max_attempts=1))
    part = next(tmp_path.rglob("*.part"))
    part.write_bytes(DATA + b"more")
    assert_whole(fetch(server, tmp_path, Source(size=None)), tmp_path)
    assert server.ranges == [None, f"bytes={len(DATA) + 4}-", None]


def test_wrong_bytes_are_thrown_away_and_fetched_again(server, tmp_path):
    server.faults[ID] = [wrong_bytes(), wrong_bytes()]
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, None, None]


def test_wrong_bytes_to_the_end_is_a_checksum_mismatch(server, tmp_path):
    server.faults[ID] = [wrong_bytes()] * 9
    with pytest.raises(AcquireError, match=f"instead of {MD5}; correct the md5 in the manifest") as caught:
        fetch(server, tmp_path, max_bad_files=2)
    assert caught.value.reason == "checksum_mismatch"
    assert len(server.requests) == 2


def test_wrong_length_is_a_size_mismatch(server, tmp_path):
    server.faults[ID] = [short_length(1)] * 9
    with pytest.raises(AcquireError, match="offers 299999 bytes instead of 300000; correct the size in the") as caught:
        fetch(server, tmp_path, Source(md5=None))
    assert caught.value.reason == "size_mismatch"
    assert len(server.requests) == 3


def test_wrong_length_once_is_mended(server, tmp_path):
    server.faults[ID] = [short_length(1)]
    assert_whole(fetch(server, tmp_path), tmp_path)


def test_without_a_length_the_size_still_counts(server, tmp_path):
    server.with_length = False  # the body ends where the connection does
    server.faults[ID] = [short_length(7)]
    assert_whole(fetch(server, tmp_path, Source(md5=None)), tmp_path)
    assert len(server.requests) == 2


def test_500s_are_asked_again(server, tmp_path):
    server.faults[ID] = [status(500), status(503)]
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert len(server.requests) == 3


def test_500s_to_the_end_fail(server, tmp_path):
    server.faults[ID] = [status(500)] * 3
    with pytest.raises(AcquireError, match="answered 500") as caught:
        fetch(server, tmp_path)
    assert caught.value.reason == "download_failed"
    assert len(server.requests) == 3


def test_429_waits_as_long_as_the_server_asks(server, tmp_path):
    server.faults[ID] = [status(429, Retry_After="1")]
    assert_whole(fetch(server, tmp_path, retry=QUICK), tmp_path)
    first, second = server.requests
    assert 0.9 < second.time - first.time < 3


def test_retry_after_counts_up_to_a_limit(server, tmp_path):
    server.faults[ID] = [status(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")]
    assert_whole(fetch(server, tmp_path, retry=QUICK.model_copy(update={"longest_retry_after_s": 0.01})), tmp_path)


def test_a_slow_drip_is_cut_and_resumed(server, tmp_path):
    server.faults[ID] = [drip(0.01)]
    assert_whole(fetch(server, tmp_path, min_bytes_per_s=1000, speed_window_s=0.2), tmp_path)
    assert server.ranges[0] is None
    assert server.ranges[1].startswith("bytes=")


def test_a_drip_to_the_end_fails(server, tmp_path):
    server.faults[ID] = [drip(0.01)] * 3
    with pytest.raises(AcquireError, match="too slow") as caught:
        fetch(server, tmp_path, min_bytes_per_s=1000, speed_window_s=0.1)
    assert caught.value.reason == "download_failed"


def test_silence_ends_at_the_timeout(server, tmp_path):
    server.faults[ID] = [silence(0.8)]
    assert_whole(fetch(server, tmp_path, read_timeout_s=0.3), tmp_path)
    assert len(server.requests) == 2


def test_404_is_not_asked_again(server, tmp_path):
    with pytest.raises(AcquireError, match="no such file") as caught:
        fetch(server, tmp_path, Source("gdc://99999999-2222-3333-4444-555555555555"))
    assert caught.value.reason == "not_found"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [(401, "access_refused"), (403, "access_refused"), (400, "source_invalid"), (405, "source_invalid")],
)
def test_hopeless_answers_are_not_asked_again(server, tmp_path, code, reason):
    server.faults[ID] = [status(code)]
    with pytest.raises(AcquireError, match=str(code)) as caught:
        fetch(server, tmp_path)
    assert caught.value.reason == reason
    assert len(server.requests) == 1


def test_an_error_page_with_200_is_no_slide(server, tmp_path):
    server.faults[ID] = [error_page()]
    assert_whole(fetch(server, tmp_path, Source(size=None, md5=None)), tmp_path)
    server.faults[ID] = [error_page()] * 3
    with pytest.raises(AcquireError, match="text/html, not a slide"):
        fetch(server, tmp_path / "again", Source(size=None, md5=None))


def test_redirects_are_followed(server, tmp_path):
    acquired = fetch(server, tmp_path, Source(f"{server.url}/moved/{ID}"))
    assert acquired.path.read_bytes() == DATA


def test_a_redirect_to_elsewhere_than_http_is_not_asked_again(server, tmp_path):
    server.faults[ID] = [status(302, Location="ftp://host/slide.svs")] * 3
    with pytest.raises(AcquireError, match="protocol") as caught:
        fetch(server, tmp_path)
    assert caught.value.reason == "source_invalid"
    assert len(server.requests) == 1


def test_redirects_in_a_circle_end(server, tmp_path):
    server.faults[ID] = [status(302, Location=f"/data/{ID}")] * 50
    with pytest.raises(AcquireError, match="redirects") as caught:
        fetch(server, tmp_path)
    assert caught.value.reason == "source_invalid"
    assert len(server.requests) < 30  # one attempt


@pytest.mark.parametrize(
    "uri", ["http://[::1/a.svs", f"http://{'a' * 300}.example/a.svs", "ftp:///a.svs", "simplecache::no://a"]
)
def test_what_is_no_address_is_not_asked_for(tmp_path, uri):
    with pytest.raises(AcquireError) as caught:
        acquire(Source(uri), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "source_invalid"


def test_a_scheme_in_capitals_is_the_same_scheme(server, tmp_path):
    assert_whole(fetch(server, tmp_path, Source(f"GDC://{ID}")), tmp_path)


def test_no_server_at_all_is_a_failed_download(tmp_path):
    with GdcServer() as gone:
        url = gone.url
    with pytest.raises(AcquireError, match="ConnectError") as caught:
        acquire(Source(), tmp_path, AcquireSettings(gdc_url=url, retry=QUICK))
    assert caught.value.reason == "download_failed"


def test_secrets_in_a_uri_stay_out_of_messages_and_files(server, tmp_path):
    server.faults[ID] = [status(500)] * 3
    address = server.url.removeprefix("http://")
    source = Source(f"http://me:hunter2@{address}/data/{ID}?signature=hunter3")
    with pytest.raises(AcquireError) as caught:
        fetch(server, tmp_path, source)
    fetch(server, tmp_path, source)
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.suffix in {".md5", ".json"}]
    assert written
    assert not any("hunter" in text for text in [str(caught.value), *written])


def test_names_never_leave_their_folder(server, tmp_path):
    source = Source(slide_id="../../etc/passwd")
    acquired = fetch(server, tmp_path / "slides", source)
    assert acquired.path.resolve().is_relative_to((tmp_path / "slides").resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["slides"]


def test_slides_of_any_ids_never_share_a_file(server, tmp_path):
    ids = ["a", "a.svs", "a.svs.part", "a.svs.md5", "A", "😐", ".", ".."]
    paths = {fetch(server, tmp_path, Source(slide_id=slide_id)).path for slide_id in ids}
    assert len(paths) == len(ids)
    assert all(path.read_bytes() == DATA for path in paths)


def test_local_files_are_used_in_place(tmp_path):
    path = tmp_path / "my slide.svs"
    path.write_bytes(DATA)
    for uri in (str(path), path.as_uri()):
        assert acquire(Source(uri), tmp_path / "out", AcquireSettings()) == Acquired(path, MD5, len(DATA))
        assert acquire(Source(uri, md5=None), tmp_path / "out", AcquireSettings()) == Acquired(path, None, len(DATA))
        assert local_path(Source(uri)) == path
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 5}, "size_mismatch"),
        ({"md5": "0" * 32}, "checksum_mismatch"),
        ({"uri": "/no/such.svs"}, "not_found"),
        ({"uri": f"/{'n' * 300}/a.svs"}, "not_found"),
        ({"uri": f"{__file__}/a.svs"}, "not_found"),
    ],
)
def test_local_files_are_checked(tmp_path, change, reason):
    path = tmp_path / "a.svs"
    path.write_bytes(DATA)
    with pytest.raises(AcquireError) as caught:
        acquire(Source(**{"uri": str(path)} | change), tmp_path, AcquireSettings())
    assert caught.value.reason == reason
    assert path.read_bytes() == DATA


def test_a_local_file_without_md5_is_not_read(tmp_path):
    path = tmp_path / "pipe.svs"
    os.mkfifo(path)  # reading it would wait for ever
    assert acquire(Source(str(path), None, None), tmp_path, AcquireSettings()).md5 is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_local_file_that_may_not_be_read_is_access_refused(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(DATA)
    path.chmod(0)
    with pytest.raises(AcquireError, match="make it readable") as caught:
        acquire(Source(str(path)), tmp_path, AcquireSettings())
    assert caught.value.reason == "access_refused"


def test_a_folder_is_not_a_slide(tmp_path):
    with pytest.raises(AcquireError, match="is a folder"):
        acquire(Source(str(tmp_path)), tmp_path, AcquireSettings())


def test_any_fsspec_file_system_will_do(tmp_path):
    fsspec.filesystem("memory").pipe_file("/slides/a.svs", DATA)
    acquired = acquire(Source("memory://slides/a.svs"), tmp_path, AcquireSettings(retry=QUICK))
    assert_whole(acquired, tmp_path)
    with pytest.raises(AcquireError) as caught:
        acquire(Source("memory://slides/none.svs", slide_id="none"), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "not_found"
    with pytest.raises(AcquireError) as caught:
        acquire(Source("memory://slides/a.svs", md5="0" * 32), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "checksum_mismatch"


def test_a_file_system_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not importable, whatever is installed here
    with pytest.raises(AcquireError, match=r"s3://bucket/a\.svs: a driver is missing: Install s3fs .*pip") as caught:
        acquire(Source("s3://bucket/a.svs"), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "source_invalid"


def test_a_full_disk_is_an_output_error_and_leaves_room(server, tmp_path):
    # A limit on file size fails with EFBIG where a full disk fails with ENOSPC; the code takes both as full.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "disk_full"
    assert len(server.requests) == 1
    assert sum(path.stat().st_size for path in slide_files(tmp_path)) == 0
    assert_whole(fetch(server, tmp_path), tmp_path)


def many(server: GdcServer, count: int) -> list[Source]:
    ids = [f"{number:08d}-0000-0000-0000-000000000000" for number in range(count)]
    server.files.update(dict.fromkeys(ids, DATA))
    return [Source(f"gdc://{file_id}", slide_id=f"slide {number}") for number, file_id in enumerate(ids)]


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
    from muse_core.acquire import AcquireSettings, SlideStore
    from tests.test_acquire import Source
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
    root = Path(__file__).parents[1]
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


def test_fsspec_parts_are_resumed_while_the_source_is_the_same(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe_file("/slides/b.svs", DATA)
    source = Source("memory://slides/b.svs", size=None, md5=None)
    with PartialFile(slide_file(source, tmp_path), _source_key(source)) as part:
        part.restart(str(files.ukey("/slides/b.svs")))
        part.append(b"x" * 1000)  # told apart from the source's own bytes, to see that they are built on
    acquired = acquire(source, tmp_path, AcquireSettings(retry=QUICK))
    assert acquired.path.read_bytes() == b"x" * 1000 + DATA[1000:]

    acquired.path.unlink()
    with PartialFile(slide_file(source, tmp_path), _source_key(source)) as part:
        part.restart(str(files.ukey("/slides/b.svs")))
        part.append(b"x" * 1000)
    files.pipe_file("/slides/b.svs", DATA[::-1])
    assert acquire(source, tmp_path, AcquireSettings(retry=QUICK)).path.read_bytes() == DATA[::-1]


def test_a_torn_note_costs_the_part_only(server, tmp_path):
    server.faults[ID] = [cut(100_000)]
    with pytest.raises(AcquireError):
        fetch(server, tmp_path, retry=RetrySettings(max_attempts=1))
    next(tmp_path.rglob("*.part.json")).write_text('{"sour')
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, None]
