"""Whether what a JPEG 2000 decoder gives is still YCbCr: the stream's own word against that of the file around it.

OpenJPEG undoes a colour transform that the codestream names, and takes subsampled chroma and boxes that say sYCC for
YCbCr, which it converts. Of all else it gives the components as they are stored.

Source: ITU-T T.800, annexes A.5.1 (SIZ), A.6.1 (COD) and I.5.3.3 (colr).
"""

_SIZ, _COD, _COLOUR_BOX = b"\xff\x51", b"\xff\x52", b"colr"
_COMPONENTS_AT = 38  # bytes from the SIZ marker to the number of components; three bytes a component follow
_TRANSFORM_AT = 8  # bytes from the COD marker to the multiple component transform
_HEAD_BYTES = 4096  # holds the boxes and markers before the first tile


def is_still_ycbcr(data: bytes, *, said_to_be: bool) -> bool:
    """Whether three decoded components are YCbCr.

    Args:
        data: the whole stream, bare or in boxes.
        said_to_be: the file around it says so.
    """
    head = data[:_HEAD_BYTES]
    return said_to_be and _COLOUR_BOX not in head and not _has_transform(head) and not _is_subsampled(head)


def _has_transform(head: bytes) -> bool:
    at = head.find(_COD)
    return at >= 0 and head[at + _TRANSFORM_AT : at + _TRANSFORM_AT + 1] == b"\1"


def _is_subsampled(head: bytes) -> bool:
    at = head.find(_SIZ)
    steps = head[at + _COMPONENTS_AT + 2 : at + _COMPONENTS_AT + 2 + 9] if at >= 0 else b""
    return any(step not in (0, 1) for step in (*steps[4:6], *steps[7:9]))
