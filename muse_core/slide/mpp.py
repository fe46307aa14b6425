"""Which µm/px to believe."""

import math
from collections.abc import Iterable
from pathlib import Path

from muse_core.errors import MppError, percent
from muse_core.images.plausible_mpp import SLIDE_MPP
from muse_core.slide.info import Mpp

# What was imaged in mm is a witness alone: programs that do not know it fill in a size of their own.
_WITNESS = "dicom.ImagedVolumeWidth"
# Best first. OpenSlide's figure is the vendor's own field; where it knows no vendor it is not among the candidates.
_TRUST = (
    "openslide.mpp-x",
    _WITNESS,
    "aperio.MPP",
    "ome.PhysicalSizeX",
    "imagej.unit",
    "tiff.XResolution",
)
# Programs that write these leave the generic tags at whatever they were: they are not held against them.
_BEATS_THE_TAG = ("ome.PhysicalSizeX", "imagej.unit")

_MOST_APART = 0.02  # relative; scanners round their figures to 0.1 %, and a nucleus 2 % too large is still one
_PRINT_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 254, 300, 360, 400, 600, 720, 1200)
_UM_PER_INCH = 25400.0

HOW_TO_GIVE = (
    "give one of: the manifest's `mpp` column, `--mpp` (the config's override), or the file's own metadata "
    "(openslide.mpp-x, aperio.MPP, OME PhysicalSizeX and Y, TIFF XResolution and YResolution)"
)


def resolve_mpp(path: Path, candidates: Iterable[Mpp], override: float | None) -> Mpp:
    """The µm/px of a slide: the override, else the most trusted plausible figure of the file.

    Args:
        path: names the slide in messages.
        candidates: what the file says.
        override: µm/px for both axes, or None.

    Returns:
        The figure and its source.

    Raises:
        MppError: no figure (reason mpp_missing), two that are more than 2 % apart (mpp_conflict), or an override that
            is not a positive number (mpp_invalid).
    """
    if override is not None:
        return _checked_override(path, override)
    plausible, refused = _judged(candidates)
    if not plausible:
        found = "; ".join(dict.fromkeys(refused)) or "none in the file"
        raise MppError(f"{path}: no µm/px found ({found}); {HOW_TO_GIVE}", reason="mpp_missing")
    best = plausible[0]
    for other in plausible[1:]:
        beaten = best.source in _BEATS_THE_TAG and other.source == "tiff.XResolution"
        if not beaten and (apart := _apart(best, other)) > _MOST_APART:
            raise MppError(
                f"{path}: its µm/px are told twice and differ by {percent(apart, _MOST_APART)}: "
                f"{_in_words(best)} and {_in_words(other)}; give the right one with the "
                "manifest's `mpp` column or `--mpp`",
                reason="mpp_conflict",
            )
    return best


def mpp_notes(candidates: Iterable[Mpp], chosen: Mpp) -> list[str]:
    """What was concluded of µm/px and why, a sentence each."""
    plausible, refused = _judged(candidates)
    others = [_in_words(one) for one in plausible if one.source != chosen.source]
    said = f"{chosen.x:.6g} x {chosen.y:.6g} µm/px by {chosen.source}"
    agreeing = f"; the file also says {', '.join(others)}" if others else ""
    return [said + agreeing, *(f"no µm/px: {words}" for words in dict.fromkeys(refused))]


def _judged(candidates: Iterable[Mpp]) -> tuple[list[Mpp], list[str]]:
    """The plausible figures, best first, and what speaks against the others."""
    plausible: list[Mpp] = []
    refused: list[str] = []
    for candidate in sorted(candidates, key=lambda one: _TRUST.index(one.source)):
        problem = _problem(candidate)
        if problem is None:
            plausible.append(candidate)
        else:
            refused.append(f"{_in_words(candidate)} {problem}")
    if [one.source for one in plausible] == [_WITNESS]:
        refused.append(f"{_in_words(plausible.pop())} is not believed alone")
    return plausible, refused


def _apart(one: Mpp, other: Mpp) -> float:
    """How far two figures differ along the axis where they do more, relative to the smaller."""
    ratios = (one.x / other.x, one.y / other.y)
    return max(max(ratio, 1 / ratio) for ratio in ratios) - 1


def _in_words(mpp: Mpp) -> str:
    figures = f"{mpp.x:.6g}" if f"{mpp.x:.6g}" == f"{mpp.y:.6g}" else f"{mpp.x:.6g} x {mpp.y:.6g}"
    return f"{mpp.source} = {figures}"


def _checked_override(path: Path, override: float) -> Mpp:
    if not (math.isfinite(override) and override > 0):
        raise MppError(
            f"{path}: mpp override {override} is of no use; a positive number of µm/px is needed, such as 0.25",
            reason="mpp_invalid",
        )
    return Mpp(float(override), float(override), "override")


def _problem(candidate: Mpp) -> str | None:
    """Why a file's figure cannot be a microscope's, or None."""
    finest, coarsest = SLIDE_MPP
    for value in (candidate.x, candidate.y):
        if not (math.isfinite(value) and value > 0):
            return "is not a positive number"
        if value > coarsest or _is_print_setting(value):
            return "is a print setting, not a microscope's"
        if value < finest:
            return "is finer than any microscope's"
    return None


def _is_print_setting(mpp: float) -> bool:
    """Whether the figure is a round number of dots an inch, which software writes when it knows nothing better."""
    dpi = _UM_PER_INCH / mpp
    return dpi <= max(_PRINT_DPI) + 1 and any(abs(dpi / known - 1) < 1e-3 for known in _PRINT_DPI)
