"""Tensors in safetensors files: written whole or not at all, read, told apart by format and by hash; nowhere else."""

import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from muse_core.errors import ConfigError, OutputError
from muse_core.machine.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

# What torch.load raises of a file that is cut short, altered or holds code.
BROKEN_FILE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", *, metadata: Mapping[str, str]) -> None:
    """Replace `path` by a whole new file, or leave the old one as it was.

    Args:
        path: the file.
        tensors: contiguous, by name.
        metadata: what else a reader needs, by name.

    Raises:
        OutputError: no space is left (reason disk_full), or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        _write(temporary, dict(tensors), dict(metadata))


def _write(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> None:
    """`save_file`, whose errors of the operating system are raised as such.

    Raises:
        OSError: with its errno.
    """
    # Late: torch takes seconds to import, and reading what a file is does without it.
    from safetensors.torch import save_file

    mode = path.stat().st_mode  # the library replaces the file by one of the owner's alone
    try:
        save_file(tensors, path, metadata=metadata)
        path.chmod(mode)
    except SafetensorError as error:
        _, found, code = str(error).partition("os error ")
        number = code.partition(")")[0]
        if found and number.isdigit():
            raise OSError(int(number), os.strerror(int(number)), str(path)) from error
        raise OutputError(f"{path}: cannot be written ({error})") from error


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        about: its metadata, all but the format.
        tensors: by name; torch's, or NumPy arrays where those were asked for.
    """

    about: dict[str, str]
    tensors: dict[str, Any]


def read_tensors(path: Path, form: str, *, what: str, hint: str, framework: Literal["pt", "np"] = "pt") -> TensorFile:
    """Read a file of ours, whole.

    Args:
        path: the file.
        form: the format that its metadata must name; empty for one that names none.
        what: it is, for the message.
        hint: what to do where it is not.
        framework: "np" where torch is not to be imported.

    Raises:
        ConfigError: no such file, cut short, or of another format.
    """
    try:
        with safe_open(path, framework=framework) as file:
            about = dict(file.metadata() or {})
            found = about.pop("format", "")
            names = list(file.keys()) if found == form else []  # nothing of another format is read
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{what} {path}: cannot be read ({error}); {hint}") from None
    if found != form:
        raise ConfigError(f"{what} {path}: format {found!r} found, {form!r} needed; {hint}")
    return TensorFile(about, tensors)


def metadata_of(path: Path) -> dict[str, str]:
    """A file's metadata, its format among them.

    Raises:
        ConfigError: no such file, or no safetensors.
    """
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"checkpoint {path}: cannot be read ({error}); give a .safetensors file of muse") from None


def format_of(path: Path) -> str:
    """The format that a weights file names in its metadata; empty where it names none.

    Raises:
        ConfigError: no such file, or no safetensors.
    """
    return metadata_of(path).get("format", "")


_ID_DIGITS = 12


def hash_of(path: Path) -> str:
    """Twelve hex digits that change with the weights.

    Raises:
        ConfigError: the file cannot be read.
    """
    return sha256_of(path)[:_ID_DIGITS]


def sha256_of(path: Path) -> str:
    """All 64 hex digits of a weights file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"checkpoint {path}: cannot be read ({error.strerror}); give a file of muse finetune"
        ) from None
