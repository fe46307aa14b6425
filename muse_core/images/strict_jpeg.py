"""JPEG decoded strictly: what libjpeg only warns of, and goes on with grey or shifted blocks, is an error here."""

import re
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from muse_core.images.jpeg_markers import END, end_of, is_zeroed

DecodedColours = Literal["RGB", "GRAY", "CMYK"]  # by simplejpeg's names

_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")  # libjpeg's words


def decode_strictly(stream: bytes, colours: DecodedColours) -> NDArray[np.uint8]:
    """Decode a whole stream.

    Args:
        stream: with all its tables.
        colours: what is asked for; libjpeg converts by the stream's markers.

    Returns:
        (H, W, C) uint8.

    Raises:
        ValueError: it is damaged: coded data that end too early or go on too long, codes that there are not.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(stream, colours, strict=True), np.uint8)
    except ValueError as error:
        if not _is_padding(str(error), stream):
            raise
    return np.asarray(simplejpeg.decode_jpeg(stream, colours, strict=False), np.uint8)


def decode_file_strictly(data: bytes, colours: DecodedColours) -> NDArray[np.uint8]:
    """The same of a file, behind whose end other bytes may stand: a film, another picture, a camera's own.

    Raises:
        ValueError: it is damaged, or part of it was overwritten by zeros.
    """
    stream = data[: end_of(data)]
    if is_zeroed(stream, None):
        raise ValueError("holds nothing but zeros in places")
    return decode_strictly(stream, colours)


def _is_padding(complaint: str, stream: bytes) -> bool:
    """Whether bytes that are left over before the end are what some writers fill up with, not lost coded data."""
    found = _LEFT_OVER.search(complaint)
    if found is None:
        return False
    end = stream.rfind(END)
    return set(stream[end - int(found[1]) : end]) in ({0}, {255})
