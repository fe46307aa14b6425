"""The detector's weights as a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from muse_core.detector.calibration import Calibration
from muse_core.errors import ConfigError
from muse_core.labels import BRCA_CLASS_NAMES
from muse_core.models.detector import NucleusNet
from muse_core.models.tensor_file import read_tensors, save_tensors

FORMAT = "muse-nucleus-detector-1"
_UNNAMED_DATASET = "brca-m2c"  # of files that don't name their classes; of another dataset they stay unnamed


@dataclass(frozen=True)
class DetectorWeights:
    """A trained network and what is needed to use it.

    Attributes:
        net: in eval mode.
        calibration: heat to score.
        min_distance_um: nuclei nearer than this are one.
        class_names: of the network's class maps; empty where nobody named them.
    """

    net: NucleusNet
    calibration: Calibration = Calibration()  # noqa: RUF009  (frozen)
    min_distance_um: float = 3.0
    class_names: tuple[str, ...] = ()


def save_model(model: DetectorWeights, path: Path, *, notes: dict[str, str] | None = None) -> None:
    """Write the weights (float32) with all that is needed to use them; `notes` go into the file's metadata.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}  # not the batch counters
    about = {
        "format": FORMAT,
        "n_classes": str(model.net.head.out_channels - 1),
        "width": str(model.net.from16.out_channels),
        "calibration": json.dumps(asdict(model.calibration)),
        "min_distance_um": str(model.min_distance_um),
    }
    if model.class_names:
        about["class_names"] = json.dumps(model.class_names)
    save_tensors(path, tensors, metadata={**(notes or {}), **about})


def load_model(path: Path) -> DetectorWeights:
    """Read what `save_model` wrote.

    Raises:
        ConfigError: no such file, or not a detector's weights.
    """
    file = read_tensors(path, FORMAT, what="detector weights", hint="give a file of `muse train-detector`")
    about, tensors = file.about, file.tensors
    net = NucleusNet(int(about["n_classes"]), width=int(about["width"]))
    missing = net.load_state_dict(tensors, strict=False)
    lacking = [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")]
    if lacking or missing.unexpected_keys:
        raise ConfigError(f"detector weights {path}: tensors differ from this version's network: {lacking[:3]}")
    calibration = Calibration(**json.loads(about["calibration"]))
    return DetectorWeights(net.eval(), calibration, float(about["min_distance_um"]), _class_names(about, path))


def _class_names(about: dict[str, str], path: Path) -> tuple[str, ...]:
    """What a file says its classes are; files of versions that named none are BRCA-M2C's where nothing speaks against.

    Raises:
        ConfigError: not as many names as classes.
    """
    n_classes = int(about["n_classes"])
    if "class_names" not in about:
        of_brca = about.get("dataset", _UNNAMED_DATASET) == _UNNAMED_DATASET and n_classes == len(BRCA_CLASS_NAMES)
        return BRCA_CLASS_NAMES if of_brca else ()
    names = tuple(str(name) for name in json.loads(about["class_names"]))
    if len(names) != n_classes:
        raise ConfigError(f"detector weights {path}: {len(names)} names of {n_classes} classes; the file is damaged")
    return names
