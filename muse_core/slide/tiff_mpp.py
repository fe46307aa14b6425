"""The figures of µm/px in a TIFF: the vendor's own field, OME-XML, ImageJ's unit, the resolution tags."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import tifffile

from muse_core.slide.info import Mpp
from muse_core.slide.tiff_pages import TiffFacts, TiffPage

_UM_PER = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "\\u00b5m": 1.0,  # as ImageJ escapes it
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "Å": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
    "ft": 304800.0,
    "mil": 25.4,
    "thou": 25.4,
    "pt": 25400.0 / 72,
}
_RESOLUTION_UNIT_UM = {2: 25400.0, 3: 10000.0}  # TIFF ResolutionUnit: inch, centimetre
_DECIMAL_COMMA = re.compile(r"^\d+,\d+$")


def mpp_candidates(facts: TiffFacts, page: TiffPage) -> tuple[Mpp, ...]:
    """Every figure that the file gives for a page, unjudged: zeros and print settings among them.

    Args:
        facts: what the tags say.
        page: the page that is the slide.
    """
    found: list[Mpp] = []
    if facts.kind == "aperio":
        found += _aperio(page.description)
    if facts.ome_xml:
        found += _ome(facts, page)
    if page.resolution is not None:
        found += _imagej(page.resolution, page.description or facts.pages[0].description)
        found += _resolution(page.resolution)
    return tuple(found)


def _aperio(description: str) -> Iterator[Mpp]:
    try:
        text = str(tifffile.tifffile.svs_description_metadata(description).get("MPP", ""))
    except ValueError:
        return
    yield from _pair(text, text, "aperio.MPP")


def _ome(facts: TiffFacts, page: TiffPage) -> Iterator[Mpp]:
    """PhysicalSizeX and Y of the page's image, else of the first of its size; the unit is µm unless said otherwise.

    Source: OME schema 2016-06, Pixels element.
    """
    try:
        # The file's own metadata: the standard parser resolves no external entities.
        root = ElementTree.fromstring(facts.ome_xml)  # noqa: S314
    except ElementTree.ParseError:
        return
    every = [one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"]
    size = (str(page.width), str(page.height))
    of_size = [one for one in every if (one.get("SizeX"), one.get("SizeY")) == size]
    own = next((at for at, one in enumerate(facts.series) if page.name.split("+")[0] in one.pages), None)
    if own is not None and len(facts.series) == len(every) and every[own] in of_size:
        of_size = [every[own]]  # several images may be of one size and of different scales
    pixels = next(iter([*of_size, *every]), None)
    if pixels is None or not {"PhysicalSizeX", "PhysicalSizeY"} <= set(pixels.attrib):
        return
    unit_x = _UM_PER.get(pixels.get("PhysicalSizeXUnit", "µm"))
    unit_y = _UM_PER.get(pixels.get("PhysicalSizeYUnit", "µm"))
    if unit_x is None or unit_y is None:
        return
    for one in _pair(pixels.attrib["PhysicalSizeX"], pixels.attrib["PhysicalSizeY"], "ome.PhysicalSizeX"):
        yield Mpp(one.x * unit_x, one.y * unit_y, one.source)


def _imagej(resolution: tuple[float, float, int], description: str) -> Iterator[Mpp]:
    """ImageJ keeps px per unit in the resolution tags, and the unit in its description."""
    if not description.startswith("ImageJ="):
        return
    unit = next((line.partition("=")[2].strip() for line in description.splitlines() if line.startswith("unit=")), "")
    length = _UM_PER.get(unit, _UM_PER.get(unit.lower()))
    x, y, _ = resolution
    if length is not None and x > 0 and y > 0:
        yield Mpp(length / x, length / y, "imagej.unit")


def _resolution(resolution: tuple[float, float, int]) -> Iterator[Mpp]:
    x, y, unit = resolution
    length = _RESOLUTION_UNIT_UM.get(unit)
    if length is not None:
        yield Mpp(length / x if x else float("inf"), length / y if y else float("inf"), "tiff.XResolution")


def _pair(x: str, y: str, source: str) -> Iterator[Mpp]:
    try:
        along_x, along_y = (float(one.replace(",", ".") if _DECIMAL_COMMA.match(one) else one) for one in (x, y))
        yield Mpp(along_x, along_y, source)
    except ValueError:
        return
