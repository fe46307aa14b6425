"""One slide to a verified local file."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

from muse_core.cohort.acquire.partial import PartialFile
from muse_core.cohort.acquire.retry import TransientError, with_retries
from muse_core.cohort.acquire.settings import AcquireSettings
from muse_core.cohort.acquire.transfer import Transfer, fsspec_transfer, http_transfer
from muse_core.cohort.source import SlideSource
from muse_core.cohort.uris import path_of, path_text, public_uri, scheme_of, uri_suffix
from muse_core.errors import AcquireError
from muse_core.machine.files import md5_of, safe_name, whole_file

_ADVICE = {
    "download_failed": "given up, run again later",
    "size_mismatch": "correct the size in the manifest, or the file at its source",
    "checksum_mismatch": "correct the md5 in the manifest, or the file at its source",
}


_OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu")


@dataclass(frozen=True)
class Acquired:
    """A whole slide file, verified as far as its manifest row says what it must be."""

    path: Path
    md5: str | None  # None for a local file whose row gives none
    size: int  # byte
    transient: bool = False  # to be deleted after use


def acquire(source: SlideSource, folder: Path, settings: AcquireSettings) -> Acquired:
    """Get one slide: a local file is used where it is, any other is fetched to `folder/ID/ID.suffix`.

    A download that was cut, even by a killed run, goes on where it ended; a whole file is not fetched again.

    Raises:
        AcquireError: not_found, access_refused, source_invalid, size_mismatch, checksum_mismatch; or download_failed,
            the one that may pass.
        OutputError: the disk is full or the folder cannot be written.
    """
    local = local_path(source)
    if local is not None:
        return _in_place(source, local)
    if uri_suffix(source.uri) in _OF_SEVERAL_FILES:
        message = f"{public_uri(source.uri)}: such a slide is of several files; copy all of them to this machine"
        raise AcquireError(message, reason="source_invalid")
    target = slide_file(source, folder)
    return _already_there(source, target) or _fetch(source, target, settings)


def slide_file(source: SlideSource, folder: Path) -> Path:
    """Where a fetched slide is put: in a folder of its own, so that no two slides share a file, whatever their ids."""
    name = safe_name(source.slide_id)
    suffix = uri_suffix(source.uri) or PurePosixPath(public_uri(source.uri)).suffix.lower()  # of an image
    return folder / name / (name + suffix)


def local_path(source: SlideSource) -> Path | None:
    """The file of a slide that is on this machine already; None for one that must be fetched."""
    return path_of(source.uri)


def _in_place(source: SlideSource, path: Path) -> Acquired:
    """The file where it is; read only where the manifest gives an md5, as a cohort of local slides is large."""
    name = path_text(path)
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise AcquireError(f"{name} is a folder; the uri must name the slide file", reason="not_found")
        if source.size is not None and found.st_size != source.size:
            message = f"{name} has {found.st_size} bytes, the manifest says {source.size}; correct one of them"
            raise AcquireError(message, reason="size_mismatch")
        md5 = None if source.md5 is None else md5_of(path)
    except AcquireError:
        raise  # our own, which are OSErrors too
    except OSError as error:
        raise _local_error(error, name) from error
    if md5 != source.md5:
        message = f"{name} has md5 {md5}, the manifest says {source.md5}; correct one of them"
        raise AcquireError(message, reason="checksum_mismatch")
    return Acquired(path, md5, found.st_size)


def _local_error(error: OSError, name: str) -> AcquireError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}:
        return AcquireError(f"no file {name} ({error.strerror}); check the uri in the manifest", reason="not_found")
    if isinstance(error, PermissionError):
        return AcquireError(f"{name}: {error.strerror}; make it readable", reason="access_refused")
    return AcquireError(f"{name}: {error.strerror or error}; {_ADVICE['download_failed']}")


def _already_there(source: SlideSource, target: Path) -> Acquired | None:
    """A file that an earlier run finished, if it is what the manifest now asks for."""
    if not os.path.isfile(target):  # Path.is_file raises where the folder cannot be searched
        return None
    size, recorded = target.stat().st_size, _recorded_md5(source, target)
    if source.size is not None and size != source.size:
        return None
    if recorded is None and source.md5 is not None:
        recorded = md5_of(target)
    if recorded is None or (source.md5 is not None and recorded != source.md5):
        return None
    return Acquired(target, recorded, size)


def _fetch(source: SlideSource, target: Path, settings: AcquireSettings) -> Acquired:
    with PartialFile(target, _source_key(source)) as part:
        try:
            if scheme_of(source.uri) not in {"http", "https", "gdc"}:
                md5 = _fetch_part(source, part, fsspec_transfer(source.uri, settings), settings)
            else:
                timeout = httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
                with httpx.Client(timeout=timeout, follow_redirects=True) as client:
                    transfer = http_transfer(client, _url(source, settings), settings, size=source.size, md5=source.md5)
                    md5 = _fetch_part(source, part, transfer, settings)
        except TransientError as error:
            message = f"{public_uri(source.uri)}: {error}; {_ADVICE[error.reason]}"
            raise AcquireError(message, reason=error.reason) from error
    _record_md5(source, target, md5)
    return Acquired(target, md5, part.size)


def _url(source: SlideSource, settings: AcquireSettings) -> str:
    if scheme_of(source.uri) != "gdc":
        return source.uri
    return f"{settings.gdc_url.rstrip('/')}/data/{source.uri.partition('://')[2]}"


def _fetch_part(source: SlideSource, part: PartialFile, transfer: Transfer, settings: AcquireSettings) -> str:
    """Try until the part is whole and right; its md5."""
    fruitless = bad_files = 0

    def attempt() -> str:
        nonlocal fruitless, bad_files
        had = part.size
        try:
            total = part.size if part.size and part.size == source.size else transfer(part)
            return part.finish(size=source.size or total, md5=source.md5)
        except TransientError as error:
            bad_files += error.reason != "download_failed"
            fruitless = 1 if part.size - had >= settings.min_progress_bytes else fruitless + 1
            error.attempt = fruitless if bad_files < settings.max_bad_files else settings.retry.max_attempts
            raise

    return with_retries(attempt, settings.retry)


def _source_key(source: SlideSource) -> str:
    """Tells sources apart without writing their secrets to the disk."""
    version = getattr(source, "version", None)  # of an object without md5: another version is another source
    parts = [source.uri, str(source.md5), str(source.size), *([] if version is None else [str(version)])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _record_md5(source: SlideSource, target: Path, md5: str) -> None:
    """Write `NAME.md5`, which `md5sum -c` reads too, so that a later run need not read the slide to know it."""
    with whole_file(_md5_file(target)) as temporary:
        temporary.write_text(f"# source {_source_key(source)}\n{md5}  {target.name}\n", encoding="utf-8")


def _recorded_md5(source: SlideSource, target: Path) -> str | None:
    """The md5 on record, if it is of this source and the file was not touched since."""
    record = _md5_file(target)
    try:
        if record.stat().st_mtime_ns < target.stat().st_mtime_ns:
            return None
        key, md5 = record.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return md5[:32] if key == f"# source {_source_key(source)}" else None


def _md5_file(target: Path) -> Path:
    return target.with_name(target.name + ".md5")
