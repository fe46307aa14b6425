"""What is said of a file that cannot be read."""

from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.slide.dicom import DICOM, DICOM_AT, why_no_slide

_LFS_POINTER = b"version https://git-lfs"


def refuse_what_is_no_file(path: Path) -> None:
    """Refuse a folder, and a file that is not there, empty, or not to be opened.

    Raises:
        SlideReadError: reason not_found or unreadable.
    """
    if path.is_dir():
        raise SlideReadError(f"{path}: is a folder; the path of a slide file is needed")
    if path.exists() and not path.is_file():
        raise SlideReadError(f"{path}: is no file but a device or pipe; the path of a slide file is needed")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise SlideReadError(f"{path}: no such file; check the path", reason="not_found") from None
    except OSError as error:
        raise SlideReadError(f"{path}: cannot be opened: {error.strerror or error}") from None
    if not first:
        raise SlideReadError(f"{path}: is empty (0 bytes); fetch it again")


def no_reader(path: Path, failures: dict[str, str]) -> SlideReadError:
    """No reader has the file: each one's own error, shortly, in one line."""
    return SlideReadError(f"{path}: no reader decodes it{hint_of(path)}: {_in_words(failures)}")


def hint_of(path: Path) -> str:
    """What the first bytes tell of a file that no reader decodes, in brackets; "" where they tell nothing."""
    with path.open("rb") as file:
        head = file.read(DICOM_AT + len(DICOM))
    if head.startswith(_LFS_POINTER):
        return " (it is a git-lfs pointer, not the slide: run git lfs pull)"
    words = why_no_slide(path) if head[DICOM_AT:] == DICOM else ""
    return f" ({words})" if words else ""


def _in_words(failures: dict[str, str]) -> str:
    return "; ".join(_short(name, text) for name, text in failures.items())


def _short(name: str, text: str, limit: int = 160) -> str:
    words = " ".join(text.split())
    words = words if words.startswith(f"{name}:") else f"{name}: {words}"
    return words if len(words) <= limit else words[: limit - 1] + "…"
