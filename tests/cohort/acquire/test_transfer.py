"""Downloads from a real server on loopback that misbehaves on purpose."""

import resource

import pytest

from muse_core.cohort.acquire import AcquireSettings, acquire
from muse_core.cohort.acquire.partial import PartialFile
from muse_core.cohort.acquire.retry import RetrySettings
from muse_core.errors import AcquireError, OutputError
from tests.cohort.acquire.served import DATA, ID, MD5, QUICK, Source, assert_whole, fetch, slide_files
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


def test_no_server_at_all_is_a_failed_download(tmp_path):
    with GdcServer() as gone:
        url = gone.url
    with pytest.raises(AcquireError, match="ConnectError") as caught:
        acquire(Source(), tmp_path, AcquireSettings(gdc_url=url, retry=QUICK))
    assert caught.value.reason == "download_failed"


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


def test_a_torn_note_costs_the_part_only(server, tmp_path):
    server.faults[ID] = [cut(100_000)]
    with pytest.raises(AcquireError):
        fetch(server, tmp_path, retry=RetrySettings(max_attempts=1))
    next(tmp_path.rglob("*.part.json")).write_text('{"sour')
    assert_whole(fetch(server, tmp_path), tmp_path)
    assert server.ranges == [None, None]
