"""Whole slides to nuclei: tissue only, in tiles without seams, resumable inside a slide, in bounded memory."""

from muse_core.infer.inputs import check_inputs, read_inputs, read_watched
from muse_core.infer.run import InferOptions, open_infer, settings_and_models
from muse_core.infer.settings import InferSettings
from muse_core.infer.summary import InferSummary

__all__ = [
    "InferOptions",
    "InferSettings",
    "InferSummary",
    "check_inputs",
    "open_infer",
    "read_inputs",
    "read_watched",
    "settings_and_models",
]
