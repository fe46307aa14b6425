"""Planes in focus that a slide has beside the one that is read: said, for nothing else tells."""

from collections.abc import Mapping
from pathlib import Path

import tifffile

from muse_core.slide.tiff_pages import PARSE_ERRORS

_SOURCE_LENS, _Z_OFFSET = 65421, 65424  # NDPI's tags; a lens below 0 is a macro or a map
_VMS_LAYERS = "hamamatsu.NoLayers"
_MIRAX_AXES = "mirax.HIERARCHICAL.HIER_"


def planes_in_properties(properties: Mapping[str, str]) -> str | None:
    """What an index of MIRAX or of Hamamatsu's VMS says of planes in focus, as OpenSlide hands it on; None of one."""
    layers = _whole_number(properties.get(_VMS_LAYERS))
    for name, value in properties.items():
        if name.startswith(_MIRAX_AXES) and name.endswith("_NAME") and "focus" in value.lower():
            layers = max(layers, _whole_number(properties.get(name.removesuffix("_NAME") + "_COUNT")))
    return f"{layers} planes in focus (z): the scanner's own first choice is taken" if layers > 1 else None


def planes_of_ndpi(path: Path) -> str | None:
    """What the pages of an NDPI file say of planes in focus; None of one, or where they cannot be read."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = [page.tags for page in tiff.pages]
            offsets = {int(one.valueof(_Z_OFFSET, 0)) for one in tags if float(one.valueof(_SOURCE_LENS, 1.0)) > 0}
    except PARSE_ERRORS:
        return None
    if len(offsets) < 2:
        return None
    listed = ", ".join(f"{offset / 1000:g}" for offset in sorted(offsets))
    return f"{len(offsets)} planes in focus (z, at {listed} µm): the one at 0 is taken"


def _whole_number(text: str | None) -> int:
    return int(text) if text is not None and text.strip().isdecimal() else 0
