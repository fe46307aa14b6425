"""A slide's file from wherever it is: GDC, HTTP, fsspec, this machine."""

import os
import sys
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry

from muse_core.cohort.acquire import Acquired, AcquireSettings, acquire, local_path
from muse_core.cohort.acquire.fetch import _source_key, slide_file
from muse_core.cohort.acquire.partial import PartialFile
from muse_core.errors import AcquireError
from tests.cohort.acquire.served import DATA, ID, MD5, QUICK, Source, assert_whole, fetch, slide_files
from tests.data.gdc_server import status


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


@pytest.mark.parametrize(
    "uri", ["http://[::1/a.svs", f"http://{'a' * 300}.example/a.svs", "ftp:///a.svs", "simplecache::no://a"]
)
def test_what_is_no_address_is_not_asked_for(tmp_path, uri):
    with pytest.raises(AcquireError) as caught:
        acquire(Source(uri), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "source_invalid"


def test_a_scheme_in_capitals_is_the_same_scheme(server, tmp_path):
    assert_whole(fetch(server, tmp_path, Source(f"GDC://{ID}")), tmp_path)


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
    monkeypatch.delitem(_registry, "s3", raising=False)  # nor kept by a test before this one
    with pytest.raises(AcquireError, match=r"s3://bucket/a\.svs: a driver is missing: Install s3fs .*pip") as caught:
        acquire(Source("s3://bucket/a.svs"), tmp_path, AcquireSettings(retry=QUICK))
    assert caught.value.reason == "source_invalid"


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
