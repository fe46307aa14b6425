"""Tensors in safetensors files, written whole or not at all."""

import os
import pickle
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

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


_ID_DIGITS = 12


def hash_of(path: Path) -> str:
    """Twelve hex digits that change with the weights.

    Raises:
        ConfigError: the file cannot be read.
    """
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigError(
            f"checkpoint {path}: cannot be read ({error.strerror}); give a file of muse finetune"
        ) from None
    return digest.hexdigest()[:_ID_DIGITS]


def format_of(path: Path) -> str:
    """The format that a weights file names in its metadata; empty where it names none."""
    try:
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {}).get("format"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"checkpoint {path}: cannot be read ({error}); give a .safetensors file of muse") from None
