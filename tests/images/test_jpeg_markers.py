"""A hand-made stream's segments, and what damage the markers of a stream show."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from muse_core.images.jpeg_markers import SCAN, check_stream, end_of, is_zeroed, scans, segments
from tests.data.make_slides import tissue_image


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tissue_image(240, 240, seed=4)[0]).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def test_segments_of_a_hand_made_stream():
    stream = b"\xff\xd8" + b"\xff\xe0\x00\x04ab" + b"\xff\xff\xda\x00\x03c" + b"coded"
    assert list(segments(stream)) == [(0xE0, 2, 8), (0xDA, 9, 14)]
    assert [one.body(stream) for one in segments(stream)] == [b"ab", b"c"]
    with pytest.raises(ValueError, match="does not begin as JPEG"):
        list(segments(b"nothing"))
    with pytest.raises(ValueError, match="broken JPEG header"):
        list(segments(b"\xff\xd8\xff\xe0\x00\x00ab"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"optimize": True}])
def test_sound_streams_pass(options):
    stream = jpeg(**options)
    check_stream(stream)
    check_stream(stream + b"\0" * 64)
    check_stream(bytes(imagecodecs.jpeg_encode(tissue_image(240, 240)[0], level=80)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize(
    "damage",
    [
        lambda stream: stream[:700] + b"\0" * (len(stream) - 700),
        lambda stream: stream[:-2],
        lambda stream: stream[: len(stream) // 2] + stream[:2] + stream[len(stream) // 2 :],  # a start within
        lambda stream: stream[:-1000] + b"\xff\x01" + stream[-998:],  # no marker that may stand there
        lambda stream: stream[:-1000] + b"\xff" * 500 + b"\xd9" + stream[-499:],
        lambda stream: stream[:2],
        lambda stream: stream + b"\0" * 500,
    ],
)
def test_damaged_streams_do_not(options, damage):
    with pytest.raises(ValueError, match=r"^has (no|broken|a broken) "):
        check_stream(damage(jpeg(**options)))


def test_most_random_damages_are_seen():
    stream, rng = jpeg(), np.random.default_rng(1)
    seen = 0
    for _ in range(100):
        at = int(rng.integers(700, len(stream) - 1100))
        try:
            check_stream(stream[:at] + rng.bytes(1000) + stream[at + 1000 :])
        except ValueError:
            seen += 1
    assert seen >= 90


def in_separate_scans(luma: np.ndarray) -> bytes:
    """A baseline picture of three grey ones, a scan each: the given brightness, and no colour."""
    parts = []
    for plane in (luma, np.full_like(luma, 128), np.full_like(luma, 128)):
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG", quality=90, optimize=True)
        parts.append(stream.getvalue())
    kept, frame = {0xDB, 0xC4}, b""
    joined = b"\xff\xd8"
    for number, part in enumerate(parts, start=1):
        (scan,) = scans(part)
        tables = b"".join(part[one.start : one.end] for one in scan.header if one.marker in kept)
        if not frame:
            body = next(one.body(part) for one in scan.header if one.marker == 0xC0)
            frame = b"\xff\xc0\x00\x11" + body[:5] + b"\x03" + b"\x01\x11\x00\x02\x11\x00\x03\x11\x00"
            joined += tables + frame
        else:
            joined += tables
        joined += b"\xff\xda\x00\x08\x01" + bytes([number]) + b"\x00\x00\x3f\x00" + part[scan.start : scan.end]
    return joined + b"\xff\xd9"


def test_flat_pictures_of_several_scans_are_not_taken_for_zeroed_ones():
    luma = tissue_image(640, 640, seed=4)[0][:, :, 1]
    stream = in_separate_scans(luma)
    with Image.open(io.BytesIO(stream)) as opened:
        ycbcr = np.asarray(opened.convert("YCbCr"))
    assert np.abs(ycbcr[:, :, 0].astype(int) - luma).mean() < 3
    assert len(list(scans(stream))) == 3
    assert bytes(64) in stream
    assert not is_zeroed(stream, None)


def test_zeros_count_where_the_coded_data_are():
    stream = jpeg()
    assert not is_zeroed(stream + bytes(64), None)
    at = len(stream) // 2
    assert is_zeroed(stream[:at] + bytes(128) + stream[at + 128 :], None)


def test_the_picture_ends_at_its_own_end():
    stream = jpeg(progressive=True)
    assert end_of(stream + stream) == len(stream)
    assert [one.header[-1].marker == SCAN for one in scans(stream)] == [True] * 10
