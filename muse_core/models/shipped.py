"""The weights that ship with the package."""

from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"

NUCLEUS_DETECTOR = _WEIGHTS / "nucleus-detector.safetensors"  # where nuclei are
MUSE_NANO = _WEIGHTS / "muse-nano.safetensors"  # the pretrained backbone
MUSE_NANO_NDC = _WEIGHTS / "muse-nano-ndc.safetensors"  # where nuclei are and what they are
