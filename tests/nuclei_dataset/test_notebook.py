"""The viewer in a notebook: a frame with its address, and a server that ends."""

import httpx
import pytest

from muse_core.errors import ConfigError
from muse_core.nuclei_dataset import NucleiDataset
from tests.data.make_nuclei import write_slide


def test_a_notebook_shows_the_page_in_a_frame(tmp_path):
    write_slide(tmp_path, 100)
    view = NucleiDataset(tmp_path).view("S1", height_px=500)
    try:
        assert view._repr_html_().startswith(f'<iframe src="{view.url}" width="100%" height="500"')
        assert view.url.endswith("#slide=S1")
        assert "muse view" in httpx.get(view.url, timeout=60).text
    finally:
        view.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(view.url)


def test_a_viewer_that_does_not_start_says_why(tmp_path):
    write_slide(tmp_path, 100)
    with pytest.raises(ConfigError, match="nowhere"):
        NucleiDataset(tmp_path).view("S1", slides=tmp_path / "nowhere")
