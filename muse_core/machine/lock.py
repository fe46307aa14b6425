"""One writer a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from muse_core.errors import OutputError


@contextmanager
def locked(folder: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the output folder for one run; the lock dies with the process.

    Args:
        folder: made where it is missing.
        patience_s: how long another run's end is waited for.

    Raises:
        OutputError: another run holds the folder (reason output_locked), or it cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise OutputError(
            f"{folder}: another run is writing here; wait for it to end or give another --out",
            reason="output_locked",
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{folder}: a file stands where the output folder should be; give another --out") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}); give a writable --out") from None
    try:
        yield
    finally:
        lock.release()
