"""A run's state in one safetensors file: tensors by name, everything else as JSON beside them; nothing is unpickled.

pretraining            student/<name>  teacher/<name>  centre/<head>/<name>
detector, fine-tuning  net/<name>  average/<name>  best/<name>
all                    optimiser/<parameter>/<exp_avg, exp_avg_sq, step>
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from muse_core.errors import ConfigError
from muse_core.machine.files import output_errors, whole_file
from muse_core.models.tensor_file import read_tensors, save_tensors


@dataclass(frozen=True)
class RunKind:
    """Whose state a file holds.

    Attributes:
        command: of whom.
        format: the word for it in the file.
        file_name: in the run's folder.
    """

    command: str
    format: str
    file_name: str


PRETRAINING = RunKind("muse pretrain", "muse-pretrain-1", "checkpoint.safetensors")
FINETUNING = RunKind("muse finetune", "muse-ndc-training-1", "training.safetensors")
DETECTOR_TRAINING = RunKind("muse train-detector", "muse-detector-training-1", "training.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by name.
        about: settings, step, place in the data and so on; JSON values.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], kind: RunKind = PRETRAINING
) -> None:
    """Replace `path` by a whole new checkpoint, or leave the old one as it was.

    Args:
        path: the file.
        tensors: by name.
        about: everything else; JSON values.
        kind: whose it is.

    Raises:
        OutputError: no space is left, or the folder cannot be written.
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_tensors(path, own, metadata={"format": kind.format, "about": json.dumps(dict(about))})


def keep_previous(path: Path, count: int) -> None:
    """Keep the file that is about to be replaced: `a.x` stays as `a-1.x`, what was that becomes `a-2.x`, and so on.

    At no moment is `path` itself missing.

    Args:
        path: the newest.
        count: older ones to keep; 0 keeps none.

    Raises:
        OutputError: the folder cannot be written.
    """
    older = [previous_of(path, number) for number in range(1, count + 1)]
    if not older or not path.exists():
        return
    with output_errors(path):
        for newer, target in reversed(list(pairwise(older))):
            if newer.exists():
                newer.replace(target)
        with whole_file(older[0]) as temporary:
            try:
                temporary.unlink(missing_ok=True)
                temporary.hardlink_to(path)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)


def previous_of(path: Path, number: int) -> Path:
    """Where the `number`th state before the newest is kept; 1 is the last but one."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or an infinity; None where all numbers are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def read_checkpoint(path: Path, kind: RunKind = PRETRAINING) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ConfigError: no such file, cut short, or something else, such as a pickle; no code in it is run.
    """
    hint = f"it is no checkpoint of {kind.command}; remove it to start anew"
    file = read_tensors(path, kind.format, what="checkpoint", hint=hint)
    return Checkpoint(file.tensors, json.loads(file.about["about"]))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names put under a prefix: {"a": t} to {"student/a": t}."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def part_of(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """What `under` put under a prefix, by its own names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in checkpoint.tensors.items() if name.startswith(start)}


def load_part(module: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Give a module its state of a checkpoint.

    Raises:
        ConfigError: the names or shapes are another model's.
    """
    stored, own = part_of(checkpoint, prefix), module.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | stored.keys()
        if name not in own or name not in stored or own[name].shape != stored[name].shape
    )
    if wrong:
        raise ConfigError(
            f"checkpoint of another model: {len(wrong)} tensors of the {prefix} differ, the first is {wrong[0]};"
            " give the settings it was made with, or another --out"
        )
    module.load_state_dict(stored)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimiser's state by the names of the parameters."""
    return {
        f"{name}/{key}": value
        for parameter, name in names.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], stored: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave; a parameter without a state has not been trained yet."""
    by_name = {name: parameter for parameter, name in names.items()}
    for full, tensor in stored.items():
        name, _, key = full.rpartition("/")
        parameter = by_name[name]
        # AdamW counts its steps on the CPU.
        optimiser.state[parameter][key] = tensor.clone() if key == "step" else tensor.to(parameter.device)
