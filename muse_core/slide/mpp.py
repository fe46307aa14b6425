"""Which µm/px to believe."""

import math
from collections.abc import Iterable
from pathlib import Path

from muse_core.errors import MppError
from muse_core.slide.info import Mpp

# Best first. OpenSlide's figure is the vendor's own field where it knows the vendor.
_TRUST = ("openslide.mpp-x", "aperio.MPP", "ome.PhysicalSizeX", "cucim.spacing", "tiff.XResolution")

MAX_FILE_MPP = 100.0  # µm/px; a 1x objective gives about 10, and 72 dots an inch 353
_PRINT_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 254, 300, 360, 400, 600, 720, 1200)
_UM_PER_INCH = 25400.0

HOW_TO_GIVE = (
    "give one of: the manifest's `mpp` column, `--mpp` (the config's override), or the file's own metadata "
    "(openslide.mpp-x, aperio.MPP, OME PhysicalSizeX, TIFF XResolution)"
)


def resolve_mpp(path: Path, candidates: Iterable[Mpp], override: float | None) -> Mpp:
    """The µm/px of a slide: the override, else the most trusted plausible figure of the file.

    Args:
        path: names the slide in messages.
        candidates: what the readers found.
        override: µm/px for both axes, or None.

    Returns:
        The figure and its source.

    Raises:
        MppError: no figure (reason mpp_missing), or an override that is not a positive number.
    """
    if override is not None:
        return _checked_override(path, override)
    refused = []
    for candidate in sorted(candidates, key=lambda one: _TRUST.index(one.source)):
        problem = _problem(candidate)
        if problem is None:
            return candidate
        refused.append(f"{candidate.source} = {candidate.x:.6g} {problem}")
    found = "; ".join(dict.fromkeys(refused)) or "none in the file"
    raise MppError(f"{path}: no µm/px found ({found}); {HOW_TO_GIVE}", reason="mpp_missing")


def _checked_override(path: Path, override: float) -> Mpp:
    if not (math.isfinite(override) and override > 0):
        raise MppError(
            f"{path}: mpp override {override} is of no use; a positive number of µm/px is needed, such as 0.25",
            reason="mpp_invalid",
        )
    return Mpp(float(override), float(override), "override")


def _problem(candidate: Mpp) -> str | None:
    """Why a file's figure cannot be a microscope's, or None."""
    for value in (candidate.x, candidate.y):
        if not (math.isfinite(value) and value > 0):
            return "is not a positive number"
        if value > MAX_FILE_MPP or _is_print_setting(value):
            return "is a print setting, not a microscope's"
    return None


def _is_print_setting(mpp: float) -> bool:
    """Whether the figure is a round number of dots an inch, which software writes when it knows nothing better."""
    dpi = _UM_PER_INCH / mpp
    return dpi <= max(_PRINT_DPI) + 1 and any(abs(dpi / known - 1) < 1e-3 for known in _PRINT_DPI)
