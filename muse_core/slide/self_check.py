"""What each slide reader can do on this machine, found out by letting it read a slide drawn for the purpose."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import tifffile

from muse_core.errors import SlideReadError
from muse_core.machine.installed import installed_version
from muse_core.slide.slide import open_slide

_PACKAGES = {"openslide": ("openslide-python",), "cucim": ("cucim-cu13", "cucim-cu12"), "tifffile": ("tifffile",)}


@dataclass(frozen=True)
class ReaderCheck:
    """One reader: its version, and why it does not decode (None where it does)."""

    name: str
    version: str | None
    problem: str | None


def check_readers() -> list[ReaderCheck]:
    """Let each reader decode a small JPEG-tiled TIFF."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.tif"
        ramp = np.linspace(0, 255, 256 * 256, dtype=np.uint8).reshape(256, 256, 1)
        tifffile.imwrite(path, ramp.repeat(3, 2), tile=(128, 128), photometric="rgb", compression="jpeg", metadata=None)
        return [ReaderCheck(name, _version(name), _problem(path, name)) for name in _PACKAGES]


def _version(name: str) -> str | None:
    found = next((version for package in _PACKAGES[name] if (version := installed_version(package))), None)
    return f"{openslide.__library_version__} (openslide-python {found})" if found and name == "openslide" else found


def _problem(path: Path, name: str) -> str | None:
    try:
        with open_slide(path, reader=name, tolerate_missing_mpp=True) as slide:
            slide.read_level(0, 0, 256, 256)
    except SlideReadError as error:
        return str(error)
    return None
