"""Standard output and error that no terminal and no reader of a pipe can turn into a traceback.

An ASCII terminal gets ASCII: µm is written um, what has no such name is escaped. A pipe whose reader has gone, a stream
that was closed before the start, a full disk behind `>`: the run goes on to its end and its exit status, and what could
not be written is lost alone.
"""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

_ERRORS = "muse_plain"
_PLAIN = {
    "µ": "u",
    "μ": "u",
    "²": "2",
    "³": "3",
    "°": " deg",
    "×": "x",  # noqa: RUF001
    "·": ".",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "▶": ">",
    "…": "...",
    "–": "-",  # noqa: RUF001
    "—": "-",
    "‐": "-",  # noqa: RUF001
    "‘": "'",  # noqa: RUF001
    "’": "'",  # noqa: RUF001
    "“": '"',
    "”": '"',
    "•": "*",
    "✓": "ok",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "─": "-",
    "\xa0": " ",
    "\u2009": " ",
    "\u202f": " ",
}
_BRAILLE = range(0x2800, 0x2900)  # of spinners
_STANDARD = (0, 1, 2)
_FOR_GOOD = (errno.EPIPE, errno.EBADF)  # of errors of writing; a disk may have room again


def steady_streams() -> None:
    """Make this process's standard streams so. Once, before anything is written or opened."""
    _fill_closed_descriptors()
    codecs.register_error(_ERRORS, _plain)
    to_ascii = _locale_is_ascii()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or _opened(name)
        if isinstance(stream, io.TextIOWrapper):
            # In the C locale Python itself writes UTF-8, which such a terminal does not show.
            stream.reconfigure(encoding="ascii" if to_ascii else None, errors=_ERRORS)
            stream = _on_a_steady_file(stream)
        setattr(sys, name, cast("TextIO", SteadyStream(stream)))


class _SteadyFile(io.FileIO):
    """A descriptor whose writes do not fail: it waits for a slow reader, and loses only what nobody can take."""

    def write(self, data: Any) -> int:  # noqa: ANN401  (anything with a buffer)
        """Write some of `data`; how many bytes are done with, written or lost."""
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                if error.errno in _FOR_GOOD:
                    _point_at_nothing(self.fileno())
                return memoryview(data).nbytes
            if written is not None:
                return written
            select.select([], [self], [])  # it does not block by itself, and its reader is behind


def _on_a_steady_file(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same text stream whose bytes go through a `_SteadyFile`; itself where there is no file behind it."""
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_SteadyFile(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class SteadyStream:
    """A text stream whose writes do not fail; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        """Args: stream: what is written to."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the stream has)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; lost where nobody can take it any more."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # closed meanwhile, or no file
            return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write texts one after the other."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Hand on what is buffered; lost where nobody can take it any more."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _point_at_nothing(descriptor: int) -> None:
    """What is written to it later, by child processes too, goes nowhere, silently."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _fill_closed_descriptors() -> None:
    """Give descriptors that were closed before the start to nothing: the next file opened would get one of them."""
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free


def _opened(name: str) -> TextIO:
    return open(_STANDARD[1 if name == "stdout" else 2], "w", encoding="utf-8", closefd=False)


def _locale_is_ascii() -> bool:
    """Whether the environment asks for the C locale by name; an empty one asks for nothing."""
    if os.environ.get("PYTHONIOENCODING"):
        return False  # who sets it knows the terminal; its encoding is the streams' already
    # Python sets LC_CTYPE itself where LANG is C, so that it tells nothing then.
    asked = os.environ.get("LC_ALL") or os.environ.get("LANG") or os.environ.get("LC_CTYPE") or ""
    return asked in ("C", "POSIX")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the stream cannot say."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    code = ord(character)
    if code in _BRAILLE:
        return "*"
    return character.encode("ascii", "backslashreplace").decode("ascii")
