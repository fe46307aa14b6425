"""Whole slides to nuclei: tissue only, in tiles without seams, resumable inside a slide, in bounded memory."""

from muse_core.infer.cohort import InferOptions, InferRun, open_infer
from muse_core.infer.inputs import read_inputs
from muse_core.infer.settings import InferSettings
from muse_core.infer.summary import InferSummary, summary_text

__all__ = ["InferOptions", "InferRun", "InferSettings", "InferSummary", "open_infer", "read_inputs", "summary_text"]
