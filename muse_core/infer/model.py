"""Models that find and classify nuclei in tiles, by the format of their weights: one interface for slide inference.

model = load_nucleus_model(None, device="cpu")
found = model.find(images)  # (B, H, W, 3) uint8 at model.mpp -> a NucleiFound an image
"""

from pathlib import Path

from muse_core.detector.model import DetectorModel
from muse_core.errors import ConfigError
from muse_core.models.nucleus_model import NucleiFound as NucleiFound
from muse_core.models.nucleus_model import NucleusModel
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR
from muse_core.models.tensor_file import format_of
from muse_core.ndc.checkpoint import FORMAT as NDC_FORMAT
from muse_core.ndc.model import NdcModel


def load_nucleus_model(
    path: str | Path | None = None, *, device: str = "cpu", min_score: float = 0.5, embeddings: bool = False
) -> NucleusModel:
    """The model of a weights file, by the format that its metadata names.

    Args:
        path: a checkpoint of `muse finetune` or weights of `muse train-detector`; None for what ships.
        device: where the network runs: cpu, cuda or cuda:N.
        min_score: nuclei below are left out.
        embeddings: whether nuclei come with their features; weights of a detector have none.

    Raises:
        ConfigError: no such file, no model's, or one without the features asked for.
    """
    path = Path(path) if path else shipped_weights()
    form = format_of(path)
    if form == NDC_FORMAT:
        return NdcModel(path, device=device, min_score=min_score, embeddings=embeddings)
    if form.startswith("muse-nucleus-detector"):
        if embeddings:
            raise ConfigError(f"checkpoint {path}: a detector has no embeddings; give a checkpoint of muse finetune")
        return DetectorModel(path, device=device, min_score=min_score)
    raise ConfigError(
        f"checkpoint {path}: format {form!r} found; weights of muse train-detector or muse finetune needed"
    )


def shipped_weights() -> Path:
    """The weights that come with the package: those that classify best."""
    return MUSE_NANO_NDC if MUSE_NANO_NDC.exists() else NUCLEUS_DETECTOR
