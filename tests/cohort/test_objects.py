"""A folder of a real S3-compatible server over HTTP, and of one that is throttled, fails and drops connections."""

import threading

import pytest

from muse_core.cohort.objects import ObjectFolder, is_object_url, local_only, open_store, parent_and_name, url_of_path
from muse_core.cohort.output import output_of
from muse_core.errors import ConfigError, OutputError
from tests.cohort.test_home import contents
from tests.cohort.toy_work import do_toys
from tests.object_store import Trouble, troubled


def test_objects_are_written_read_listed_and_deleted(bucket, tmp_path):
    folder = ObjectFolder(f"{bucket}/run/")
    assert folder.read("a") is None
    assert folder.states() == {}
    folder.write("records/ü b.json", b"one")
    (tmp_path / "file").write_bytes(b"two" * 3_000_000)  # more than one piece of an upload
    folder.upload(tmp_path / "file", "parts/x.parquet")
    assert folder.read("records/ü b.json") == b"one"
    assert folder.sizes() == {"records/ü b.json": 3, "parts/x.parquet": 9_000_000}
    folder.download("parts/x.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    before = folder.states("records")
    assert before == {"records/ü b.json": folder.state("records/ü b.json")}
    folder.write("records/ü b.json", b"own")
    assert folder.states("records") != before, "the same size, another ETag"
    folder.delete(["records/ü b.json", "gone"])
    assert list(folder.states()) == ["parts/x.parquet"]


def test_of_many_that_create_an_object_one_does(bucket):
    folder, won = ObjectFolder(f"{bucket}/run"), []
    threads = [
        threading.Thread(target=lambda n=n: folder.create("lease", str(n).encode()) and won.append(n)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("lease") == str(won[0]).encode()


@pytest.mark.slow
def test_a_run_comes_through_throttling_failures_and_cut_connections(bucket, s3_address, tmp_path, monkeypatch):
    slides = {}
    for name in "ABC":
        (tmp_path / f"{name}.svs").write_text(f"{name}x")
        slides[name] = str(tmp_path / f"{name}.svs")
    do_toys(str(tmp_path / "out"), slides)
    monkeypatch.setattr("muse_core.cohort.objects._FIRST_WAIT_S", 0.01)
    trouble = Trouble(refuse=0.1, fail=0.1, cut=0.1, seed=1)
    with troubled(s3_address, trouble) as address:
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()
        open_store.cache_clear()
        summary, _ = do_toys(f"{bucket}/out", slides)
    assert summary.slides_done == 3
    assert trouble.count > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    s3fs.S3FileSystem.clear_instance_cache()
    open_store.cache_clear()
    assert contents(f"{bucket}/out") == contents(str(tmp_path / "out"))


@pytest.mark.slow
def test_a_store_that_stays_away_ends_a_run_in_one_line(bucket, s3_address, monkeypatch):
    with troubled(s3_address, Trouble(refuse=1.0)) as address:
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()
        open_store.cache_clear()
        with pytest.raises(OutputError, match="cannot be reached or answers with errors") as caught:
            ObjectFolder(f"{bucket}/out", patience_s=0.0).write("a", b"")
    assert caught.value.reason == "store_unreachable"
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_told_at_once(bucket, tmp_path):
    (tmp_path / "A.svs").write_text("a")
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/out.*check the bucket's name") as caught:
        do_toys("s3://no-such-bucket/out", {"A": str(tmp_path / "A.svs")})
    assert caught.value.reason == "not_found"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://user:secret@bucket/out", "credentials by environment or profile"),
        ("s3:///out", "names no bucket"),
        ("https://host/out", "https cannot be written"),
        ("nope://x/out", "unknown scheme .nope."),
    ],
)
def test_outputs_of_no_use_are_refused_in_one_line(url, text):
    with pytest.raises(ConfigError, match=text) as caught:
        output_of(url)
    assert "secret" not in str(caught.value)


def test_urls_and_paths_are_told_apart(tmp_path):
    from pathlib import Path

    assert is_object_url("s3://b/x")
    assert not is_object_url("https://b/x")
    assert not is_object_url("/b/x")
    assert url_of_path(Path("s3://b/x")) == "s3://b/x"
    assert url_of_path(Path("runs/x")) == Path("runs/x")
    assert parent_and_name("s3://b/x/y.svs") == ("s3://b/x", "y.svs")
    assert local_only("--data", "file:///x") == Path("/x")
    with pytest.raises(ConfigError, match="--data s3://b/x: needs a path on this machine"):
        local_only("--data", Path("s3://b/x"))
    assert output_of(tmp_path).url is None
    assert output_of(str(tmp_path)).path == tmp_path
