"""The segments at the head of a JPEG stream."""

from collections.abc import Iterator

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN = 0xDA  # the coded data follow this segment


def segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Each segment's marker and body, up to and with the first scan header or the end of what was given.

    Source: ITU-T T.81, annex B.1.1: two bytes of marker, two of length, which counts itself.

    Raises:
        ValueError: not a JPEG stream, or a segment that cannot be one.
    """
    if not stream.startswith(START):
        raise ValueError("does not begin as JPEG")
    position = 2
    while position + 4 <= len(stream):
        marker, length = stream[position + 1], int.from_bytes(stream[position + 2 : position + 4], "big")
        if stream[position] == 0xFF and marker == 0xFF:  # a fill byte
            position += 1
            continue
        if stream[position] != 0xFF or marker < 0xC0 or length < 2:
            raise ValueError("has a broken JPEG header")
        yield marker, stream[position + 4 : position + 2 + length]
        if marker == SCAN:
            return
        position += 2 + length
