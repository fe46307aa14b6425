"""Models that find and classify nuclei in tiles, by the format of their weights, and what runs them.

    engine = resolve_engine("auto", None, device="cpu")
    model = load_nucleus_model(None, device="cpu", engine=engine)
    found = model.find(images)  # (B, H, W, 3) uint8 at model.mpp -> a NucleiFound an image

torch is imported only where it runs the network: that takes seconds.
"""

from pathlib import Path
from typing import Literal

from muse_core.errors import ConfigError
from muse_core.machine.installed import installed_version
from muse_core.models.nucleus_model import NucleusModel
from muse_core.models.quantised import int8_pays, quantised_for, quantised_path, read_quantised
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR
from muse_core.models.tensor_file import format_of
from muse_core.ndc.head import FORMAT as NDC_FORMAT

Engine = Literal["torch", "openvino"]
Wanted = Literal["auto", "torch", "openvino"]


def resolve_engine(wanted: Wanted, path: Path | None, *, device: str, embeddings: bool = False) -> Engine:
    """What runs a model's network: `auto` is OpenVINO in int8 where that is faster and the weights are at hand.

    Args:
        wanted: a setting.
        path: a checkpoint; None for what ships.
        device: cpu, cuda or cuda:N.
        embeddings: whether nuclei come with their features, which quantised weights do not give.

    Raises:
        ConfigError: OpenVINO is asked for and cannot run this.
    """
    if wanted == "torch":
        return wanted
    lacking = _lacks_for_int8(path or shipped_weights(), device, embeddings=embeddings)
    if wanted == "openvino" and lacking:
        raise ConfigError(f"engine openvino: {lacking}; leave engine at auto, or give torch")
    return "torch" if lacking or not (int8_pays() or wanted == "openvino") else "openvino"


def _lacks_for_int8(path: Path, device: str, *, embeddings: bool) -> str:
    """What keeps OpenVINO from running a checkpoint here; empty for nothing."""
    if device != "cpu":
        return f"it runs networks on CPUs, not on {device}"
    if embeddings:
        return "quantised weights give no embeddings"
    if quantised_for(path) is None:
        return f"no {quantised_path(path).name} made from {path.name} lies beside it; muse quantise makes it"
    return "" if installed_version("openvino") else "the package openvino is not installed"


def describe_engine(engine: Engine, *, device: str) -> str:
    """An engine with its version, its numbers and what the processor has for them, for the record."""
    if engine == "torch":
        from muse_core.machine.device import best_dtype

        return f"torch {installed_version('torch')}, {str(best_dtype(device)).removeprefix('torch.')}, {device}"
    return f"openvino {installed_version('openvino')}, int8, {int8_pays() or 'no instructions for it'}"


def load_nucleus_model(
    path: str | Path | None = None,
    *,
    device: str = "cpu",
    min_score: float = 0.5,
    embeddings: bool = False,
    engine: Engine = "torch",
    threads: int = 1,
) -> NucleusModel:
    """The model of a weights file, by the format that its metadata names.

    Args:
        path: a checkpoint of `muse finetune` or weights of `muse train-detector`; None for what ships.
        device: where the network runs: cpu, cuda or cuda:N.
        min_score: nuclei below are left out.
        embeddings: whether nuclei come with their features; weights of a detector have none.
        engine: as `resolve_engine` gave it.
        threads: cores that OpenVINO has work on one image.

    Raises:
        ConfigError: no such file, no model's, or one without the features asked for.
    """
    path = Path(path) if path else shipped_weights()
    form = format_of(path)
    if engine == "openvino":
        return _quantised(path, min_score=min_score, threads=threads)
    if form == NDC_FORMAT:
        from muse_core.ndc.model import NdcModel

        return NdcModel(path, device=device, min_score=min_score, embeddings=embeddings)
    if form.startswith("muse-nucleus-detector"):
        if embeddings:
            raise ConfigError(f"checkpoint {path}: a detector has no embeddings; give a checkpoint of muse finetune")
        from muse_core.detector.model import DetectorModel

        return DetectorModel(path, device=device, min_score=min_score)
    raise ConfigError(
        f"checkpoint {path}: format {form!r} found; weights of muse train-detector or muse finetune needed"
    )


def _quantised(path: Path, *, min_score: float, threads: int) -> NucleusModel:
    from muse_core.ndc.quantised import QuantisedNdcModel

    found = quantised_for(path)
    if found is None:
        raise ConfigError(f"checkpoint {path}: its quantised weights {quantised_path(path).name} are gone")
    return QuantisedNdcModel(read_quantised(found), threads=threads, min_score=min_score)


def shipped_weights() -> Path:
    """The weights that come with the package: those that classify best."""
    return MUSE_NANO_NDC if MUSE_NANO_NDC.exists() else NUCLEUS_DETECTOR
