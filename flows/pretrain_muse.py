"""The flow `pretrain-muse`: a ROI dataset to a pretrained backbone, in processes that may crash and be resumed."""

import json
from pathlib import Path
from typing import Any

from prefect import flow

from flows.artifacts import artifact_key, publish_text
from flows.ending import ends_in_one_line
from flows.gpu import gpu_slots, gpus_wanted
from flows.training import as_options, train
from muse_core.pretrain.settings import load_pretrain_settings

KEY = "pretrain-muse"


@flow(name=KEY)
@ends_in_one_line
def pretrain_muse(
    rois: str,
    out: Path,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    processes: int | None = None,
) -> dict[str, Any]:
    """Pretrain a backbone; a crash is resumed from the last checkpoint, and so is a run of the flow started again.

    Args:
        rois: ROI dataset, folder or URL.
        out: output folder.
        config: settings as TOML, or the name of a recipe that ships.
        overrides: single settings, `key=value`.
        device: auto, cpu or cuda.
        processes: training processes on this machine; None for one a GPU.

    Returns:
        What `muse pretrain --json` says.
    """
    load_pretrain_settings(config, list(overrides))  # a mistake shows before a GPU is waited for
    gpus = gpus_wanted(device, processes)
    arguments = ("pretrain", "--rois", rois, "--resume", "--device", device, *as_options(config, overrides))
    with gpu_slots(gpus):
        answer = train(arguments, out, processes or max(1, gpus))
    publish_text(_summary(answer, out), key=artifact_key(KEY))
    return answer


def _summary(answer: dict[str, Any], out: Path) -> str:
    loss = "nothing left to do" if answer["loss"] is None else f"loss {answer['loss']:.4f}"
    return (
        f"# {answer['backbone']}\n\nStep {answer['step']} of {answer['steps']}, {loss},"
        f" {answer['n_parameters']:,} parameters, {answer['seconds'] / 3600:.2f} h.\n\n"
        f"Curves: `{out / 'curves.png'}`, numbers: `{out / 'metrics.jsonl'}`\n\n```json\n{json.dumps(answer)}\n```\n"
    )
