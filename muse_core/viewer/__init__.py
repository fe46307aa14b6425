"""The viewer: a local server and a page with every nucleus of a slide, and corrections that teach the model."""

from muse_core.viewer.run import ViewedRun
from muse_core.viewer.serve import Address, open_browser, serve

__all__ = ["Address", "ViewedRun", "open_browser", "serve"]
