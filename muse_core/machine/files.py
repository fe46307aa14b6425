"""Files written whole or not at all, and names that stay inside their folder."""

import errno
import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from muse_core.errors import OutputError

LONGEST_NAME_BYTES = 200  # of `safe_name`; file systems take 255, the rest is left for prefixes and suffixes
_DIGEST = 16  # hex digits: 64 bits, so that no two names of any cohort meet
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed to `path`, on failure removed.

    Raises:
        OutputError: the disk is full (reason disk_full) or the folder cannot be written (output_unwritable).
    """
    temporary = path.with_name(f".{_cut(path.name, 80)}.{secrets.token_hex(4)}.tmp")
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made here with the usual mode, so that the kernel applies the umask; safe makers allow the owner alone.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(NotADirectoryError):  # the folder is a file, as was told
            temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder of ours and below; nobody else may be writing there."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Tell a write to `path` that fails inside the block as what it means for a person.

    Raises:
        OutputError: the disk is full (reason disk_full) or the folder cannot be written (output_unwritable).
    """
    try:
        yield
    except OSError as error:
        mended = as_output_error(error, path)
        if mended is error:
            raise
        raise mended from error


def as_output_error(error: OSError, path: Path) -> OSError:
    """The OutputError that tells a person what a failed write means; other errors come back as they are."""
    if isinstance(error, OutputError):
        return error
    if error.errno in _FULL:
        return OutputError(f"{path}: no space left on the disk; free some or give another --out", reason="disk_full")
    if error.errno in _READ_ONLY:
        return OutputError(f"{path}: cannot be written ({error.strerror}); give a writable --out")
    return error


def safe_name(name: str) -> str:
    """A file name for any identifier: letters and digits of any script, '.', '_', '-' stay, all else is encoded as %XX.

    Names that differ in their Unicode form alone, as macOS and Linux write them, get one name. The result never is '.',
    '..', a path, or of those that readers of tables pass over, which start with '.' or '_': `safe_name('../a b')` is
    '%2E.%2Fa%20b'. It leaves room for prefixes and suffixes within a file system's 255 bytes: of a name too long for
    that the first part stays, with '~' and a checksum. Without '~' `urllib.parse.unquote` gives the name back.
    """
    encoded = "".join(one if _stays(one) else quote(one, safe="") for one in normal_form(name)).replace("~", "%7E")
    if encoded.startswith((".", "_")):
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded.encode()) <= LONGEST_NAME_BYTES:
        return encoded
    digest = hashlib.sha256(encoded.encode()).hexdigest()[:_DIGEST]
    return f"{_cut(encoded, LONGEST_NAME_BYTES - _DIGEST - 1)}~{digest}"


def normal_form(text: str) -> str:
    """A text in Unicode's composed form, in which names are compared: macOS decomposes those of files."""
    return unicodedata.normalize("NFC", text)


def _stays(character: str) -> bool:
    return character in "._-" or unicodedata.category(character)[0] in "LMN"


def _cut(name: str, length: int) -> str:
    """At most `length` bytes of a name, without half a character or half an escape at the end."""
    cut = name.encode()[:length].decode(errors="ignore")
    return re.sub(r"%.?$", "", cut) if len(cut) < len(name) else cut


def md5_of(path: Path) -> str:
    """The md5 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_md5).hexdigest()


def new_md5() -> "hashlib._Hash":
    """An MD5 to be fed."""
    return hashlib.md5(usedforsecurity=False)  # detects damage, which is what servers publish it for
