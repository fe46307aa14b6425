"""A hand-made stream's segments, and what damage the markers of a stream show."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from muse_core.images.jpeg_markers import check_stream, segments
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
