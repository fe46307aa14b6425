"""A folder of an object store, by any URL that fsspec knows: small calls that are tried again while the store is busy.

Keys are written whole or not at all, what was written is seen by the next read or listing, and a key can be created by
one caller alone: S3, Google's and Azure's stores guarantee this, and no more is asked of them.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from muse_core.cohort.uris import missing_driver, path_of, public_text, public_uri, scheme_of, uri_problem
from muse_core.errors import ConfigError, OutputError

PATIENCE_S = 300.0  # a store that answers nothing but errors for so long is given up
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_NOT_OBJECTS = frozenset({"", "file", "gdc", "http", "https"})
# What drivers raise besides OSError, by module: none of them need be installed.
_KINDS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
_HOPELESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")
_FINAL = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, OutputError)
# Each layer of a driver tries again by itself, one within the other; once here is enough.
_OPTIONS = {"s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}}
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")

_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")

Answer = TypeVar("Answer")


def is_object_url(text: str | Path) -> bool:
    """Whether a text is the URL of something in an object store, or another file system of fsspec's."""
    return not isinstance(text, Path) and scheme_of(text) not in _NOT_OBJECTS


def store_errors(*besides: type[Exception]) -> tuple[type[Exception], ...]:
    """What calls to a store raise, whichever drivers are loaded; and others that the caller names."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _KINDS)
    return (OSError, *besides, *(kind for kind in found if kind is not None))


@lru_cache(maxsize=64)
def open_store(url: str) -> tuple[Any, str]:
    """Fsspec's file system of a URL, and the path in it; credentials are the environment's or a profile's.

    Raises:
        ConfigError: the URL is none, holds a password or a query, or its driver is not installed.
    """
    if problem := uri_problem(url):
        raise ConfigError(problem)
    if public_uri(url) != url:
        raise ConfigError(
            f"{public_uri(url)}: the URL holds a user, password or query; give credentials by environment or profile"
        )
    if needed := missing_driver(url):
        raise ConfigError(f"{url}: {needed}")
    try:
        files, path = fsspec.core.url_to_fs(url, **_OPTIONS.get(scheme_of(url), {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{url}: not an address its file system takes: {public_text(str(error))}") from None
    return files, str(path).rstrip("/")


def state_of(info: Mapping[str, Any]) -> str:
    """What changes when an object does: its ETag and size, or its size and time where the store has no ETag."""
    mark = next((str(info[name]).strip('"') for name in _ETAGS if info.get(name)), None)
    mark = mark or next((str(info[name]) for name in _TIMES if info.get(name)), "")
    return f"{mark} {info.get('size')}"


class ObjectFolder:
    """A folder of an object store; usable from many threads.

    Args:
        url: such as s3://bucket/runs/nuclei.
        patience_s: how long a call is tried again while the store is busy or cannot be reached.

    Raises:
        ConfigError: as `open_store`.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = open_store(self.url)
        self._patience_s = patience_s

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is no such object."""

        def read() -> bytes | None:
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

        return self._tried(read, name)

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place of one that may be there."""
        self._tried(lambda: self._files.pipe_file(self._path(name), data), name)

    def create(self, name: str, data: bytes) -> bool:
        """Put an object where there is none; False where there is one. Of many callers at once one succeeds.

        Bytes must be the caller's own: an answer that was lost on its way is told by them.
        """

        def create() -> bool:
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True

        return self._tried(create, name) or self.read(name) == data

    def upload(self, path: Path, name: str) -> None:
        """Put a file in place of an object; it appears whole, in parts or at once as the driver has it."""
        self._tried(lambda: self._files.put_file(str(path), self._path(name)), name)

    def download(self, name: str, path: Path) -> None:
        """Write an object into a file, whose folder is there."""
        self._tried(lambda: self._files.get_file(self._path(name), str(path)), name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone are none the worse."""
        for name in names:
            self._tried(lambda name=name: self._delete(name), name)  # type: ignore[misc]

    def state(self, name: str) -> str | None:
        """What changes when an object does; None where there is none."""

        def look() -> str | None:
            self._files.invalidate_cache()
            try:
                return state_of(self._files.info(self._path(name)))
            except FileNotFoundError:
                return None

        return self._tried(look, name)

    def states(self, below: str = "") -> dict[str, str]:
        """Every object of the folder and below it by name, with what changes when it does.

        Args:
            below: only those of this folder in it.
        """

        def look() -> dict[str, str]:
            self._files.invalidate_cache()
            found = self._files.find(self._path(below) if below else self._root, detail=True)
            return {self._name(path): state_of(info) for path, info in found.items()}

        return self._tried(look, below)

    def names(self, below: str = "") -> set[str]:
        """Every object of the folder and below it.

        Args:
            below: only those of this folder in it.
        """
        return set(self.states(below))

    def sizes(self) -> dict[str, int]:
        """Every object of the folder and below it by name, with its bytes."""

        def look() -> dict[str, int]:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
            return {self._name(path): int(info.get("size") or 0) for path, info in found.items()}

        return self._tried(look, "")

    def _delete(self, name: str) -> None:
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")

    def _tried(self, call: Callable[[], Answer], name: str) -> Answer:
        errors = store_errors()
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, errors) and not _is_hopeless(error)),
            wait=wait_random_exponential(_FIRST_WAIT_S, _LONGEST_WAIT_S),
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )
        try:
            return retrying(call)
        except errors as error:
            where = "/".join(filter(None, (self.url, name)))
            raise _as_output_error(where, error) from error


def _is_hopeless(error: BaseException) -> bool:
    return isinstance(error, _FINAL) or type(error).__name__ in _HOPELESS


def _as_output_error(where: str, error: Exception) -> OutputError:
    said = public_text(" ".join(str(error).split()))
    if isinstance(error, FileNotFoundError):
        return OutputError(f"{where}: not there ({said}); check the bucket's name", reason="not_found")
    if _is_hopeless(error):
        text = f"{where}: access refused ({said}); check the credentials of the environment or the profile"
        return OutputError(text, reason="access_refused")
    return OutputError(
        f"{where}: the store cannot be reached or answers with errors ({type(error).__name__}: {said}); run the same "
        "command again later, it goes on from there",
        reason="store_unreachable",
    )


def parent_and_name(url: str) -> tuple[str, str]:
    """The folder of an object's URL, and its name there."""
    path = PurePosixPath(url.partition("://")[2])
    return url[: len(url) - len(path.name)].rstrip("/"), path.name


def url_of_path(text: str | Path) -> str | Path:
    """A URL that was made a path on its way, and lost a slash there, as it was; anything else as it is."""
    found = _COLLAPSED.match(str(text)) if isinstance(text, Path) else None
    if found is None or found[1].lower() not in fsspec.available_protocols():
        return text
    return f"{found[1]}://{str(text)[found.end() :]}"


def local_only(option: str, path: str | Path) -> Path:
    """The path, where it is one of this machine.

    Args:
        option: its name, such as `--out`.
        path: what was given.

    Raises:
        ConfigError: it is a URL.
    """
    found = url_of_path(path)
    local = found if isinstance(found, Path) else path_of(found)
    if local is None:
        raise ConfigError(f"{option} {found}: needs a path on this machine here; copy it, such as by `aws s3 sync`")
    return local
