"""One attempt at moving a source's bytes into a partial file: HTTP with Range, or anything that fsspec reads."""

import re
from collections.abc import Callable
from time import monotonic
from typing import Any

import fsspec
import httpx

from muse_core.cohort.acquire.partial import PartialFile
from muse_core.cohort.acquire.retry import TransientError, raise_if_busy
from muse_core.cohort.acquire.settings import AcquireSettings
from muse_core.cohort.objects import store_errors
from muse_core.cohort.uris import missing_driver, public_text, public_uri, uri_problem
from muse_core.errors import AcquireError, MuseError

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_ERROR_PAGES = {"text/html", "application/json", "application/xhtml+xml"}  # sent with 200 by some proxies and by GDC
_READ_BYTES = 2**22

# Appends bytes to the part until the source is exhausted; the size the source says it has, if it says.
Transfer = Callable[[PartialFile], int | None]


class SpeedFloor:
    """Ends a connection that drips: alive enough for the read timeout, too slow to wait for."""

    def __init__(self, settings: AcquireSettings) -> None:
        self._needed_bytes = settings.min_bytes_per_s * settings.speed_window_s
        self._window_s = settings.speed_window_s
        self._start, self._bytes = monotonic(), 0

    def add(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            TransientError: a window went by with too few of them.
        """
        self._bytes += count
        elapsed_s = monotonic() - self._start
        if elapsed_s < self._window_s:
            return
        if self._bytes < self._needed_bytes:
            raise TransientError(f"too slow: {self._bytes} bytes in {elapsed_s:.0f} s")
        self._start, self._bytes = monotonic(), 0


def http_transfer(
    client: httpx.Client, url: str, settings: AcquireSettings, *, size: int | None, md5: str | None
) -> Transfer:
    """A transfer over HTTP; `size` and `md5` are what the whole must have, where known."""

    def transfer(part: PartialFile) -> int | None:
        if part.size and part.validator is None and md5 is None:
            part.restart(None)  # nothing would tell a part of another version from a part of this one
        headers = {"Accept-Encoding": "identity"}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if part.validator is not None:
                headers["If-Range"] = part.validator
        try:
            with client.stream("GET", url, headers=headers) as response:
                total, complete = _begin(response, part, size)
                floor = SpeedFloor(settings)
                for data in () if complete else response.iter_raw():
                    part.append(data)
                    floor.add(len(data))
                return total
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            message = f"{public_uri(url)}: {public_text(str(error))}; correct the uri"
            raise AcquireError(message, reason="source_invalid") from error
        except httpx.TransportError as error:
            raise TransientError(f"{type(error).__name__}: {public_text(str(error))}") from error

    return transfer


def _begin(response: httpx.Response, part: PartialFile, size: int | None) -> tuple[int | None, bool]:
    """Make the part ready for the body: the total size if the server says it, and whether the part is whole already."""
    start, total = _content_range(response)
    if response.status_code == 416 and part.size:
        if total == part.size:
            return total, True
        part.restart(None)
        raise TransientError(f"the server has {total} bytes, fewer than were had; starting again")
    _raise_for_status(response)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _ERROR_PAGES:
        raise TransientError(f"the server answered {response.status_code} with {kind}, not a slide")
    if response.status_code == 206:
        if start != part.size:
            part.restart(None)
            raise TransientError(f"the server went on at byte {start}; starting again")
    else:
        part.restart(_validator(response))
        total = _content_length(response)
    if size is not None and total is not None and total != size:
        part.restart(None)
        raise TransientError(f"the server offers {total} bytes instead of {size}", reason="size_mismatch")
    return total, False


def _raise_for_status(response: httpx.Response) -> None:
    raise_if_busy(response)
    status, url = response.status_code, public_uri(str(response.url))
    if status in {404, 410}:
        raise AcquireError(f"{url}: the server has no such file ({status}); check the uri", reason="not_found")
    if status in {401, 403}:
        message = f"{url}: access refused ({status}); only open-access slides can be fetched"
        raise AcquireError(message, reason="access_refused")
    if status not in {200, 206}:
        raise AcquireError(f"{url}: the server answered {status}; check the uri", reason="source_invalid")


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    start, total = found[1], found[2]
    return (None if start is None else int(start)), (None if total == "*" else int(total))


def _content_length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _validator(response: httpx.Response) -> str | None:
    """What If-Range may hold: a strong ETag, or else the date. Source: RFC 9110, section 13.1.5."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return str(etag)
    date = response.headers.get("Last-Modified")
    return None if date is None else str(date)


def fsspec_transfer(uri: str, settings: AcquireSettings) -> Transfer:
    """A transfer from any file system fsspec knows."""

    def transfer(part: PartialFile) -> int | None:
        try:
            files, path = _open_file_system(uri)
            size, validator = files.info(path).get("size"), str(files.ukey(path))
            if validator != part.validator:
                part.restart(validator)
            floor = SpeedFloor(settings)
            with files.open(path, "rb") as file:
                file.seek(part.size)
                while data := file.read(_READ_BYTES):
                    part.append(data)
                    floor.add(len(data))
        except MuseError:
            raise  # the part's own failures, which are OSErrors too
        except FileNotFoundError as error:
            raise AcquireError(f"{public_uri(uri)}: no such file; check the uri", reason="not_found") from error
        except PermissionError as error:
            raise AcquireError(
                f"{public_uri(uri)}: access refused: {public_text(str(error))}", reason="access_refused"
            ) from error
        except store_errors(ValueError) as error:
            raise TransientError(f"{type(error).__name__}: {public_text(str(error))}") from error
        return None if size is None else int(size)

    return transfer


def _open_file_system(uri: str) -> tuple[Any, str]:
    """Fsspec's file system of a URI, and the path in it."""
    if problem := uri_problem(uri):
        raise AcquireError(problem, reason="source_invalid")
    if needed := missing_driver(uri):
        raise AcquireError(f"{public_uri(uri)}: {needed}", reason="source_invalid")
    try:
        files, path = fsspec.core.url_to_fs(uri)
    except (TypeError, ValueError) as error:
        message = f"{public_uri(uri)}: not an address its file system takes: {public_text(str(error))}; correct the uri"
        raise AcquireError(message, reason="source_invalid") from error
    return files, path
