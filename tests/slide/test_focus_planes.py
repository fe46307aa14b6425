"""Planes in focus are said, for readers take one and tell nobody."""

import numpy as np
import tifffile

from muse_core.slide.focus_planes import planes_in_properties, planes_of_ndpi


def test_what_a_mirax_index_says():
    properties = {
        "mirax.HIERARCHICAL.HIER_0_NAME": "Slide zoom level",
        "mirax.HIERARCHICAL.HIER_0_COUNT": "10",
        "mirax.HIERARCHICAL.HIER_2_NAME": "Microscope focus level",
        "mirax.HIERARCHICAL.HIER_2_COUNT": "9",
    }
    assert planes_in_properties(properties) == "9 planes in focus (z): the scanner's own first choice is taken"
    assert planes_in_properties(properties | {"mirax.HIERARCHICAL.HIER_2_COUNT": "1"}) is None


def test_what_a_vms_index_says():
    assert planes_in_properties({"hamamatsu.NoLayers": "3"}) == (
        "3 planes in focus (z): the scanner's own first choice is taken"
    )
    assert planes_in_properties({"hamamatsu.NoLayers": "1"}) is None


def ndpi(path, pages):
    """The tags that count, in a plain TIFF: of a name in .ndpi tifffile expects NDPI's own wide offsets."""
    with tifffile.TiffWriter(path) as tiff:
        for lens, offset in pages:
            tags = [(65421, 11, 1, lens, True), (65424, 9, 1, offset, True)]
            tiff.write(np.zeros((16, 16), np.uint8), extratags=tags, metadata=None)
    return path


def test_what_the_pages_of_an_ndpi_say(tmp_path):
    pages = [(20.0, 0), (20.0, -2000), (20.0, 2000), (5.0, 0), (-1.0, 900)]
    expected = "3 planes in focus (z, at -2, 0, 2 µm): the one at 0 is taken"
    assert planes_of_ndpi(ndpi(tmp_path / "a.tif", pages)) == expected
    assert planes_of_ndpi(ndpi(tmp_path / "b.tif", [(20.0, 0), (5.0, 0), (-1.0, 900)])) is None
    (tmp_path / "c.ndpi").write_bytes(b"nothing")
    assert planes_of_ndpi(tmp_path / "c.ndpi") is None
