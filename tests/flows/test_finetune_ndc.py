"""Fine-tuning in a process that is killed on the way, with Prefect's own server."""

import json
import re
import threading
import time

import psutil
import pytest

from flows.finetune_ndc import finetune_ndc
from muse_core.ndc import promote
from muse_core.ndc.registry import read_current
from tests.data.make_patches import write_brca

QUICK = (
    "steps=12",
    "validate_every=2",
    "batch_size=2",
    "side_px=128",
    "threads=1",
    "model.hidden=8",
)

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


def kill_once_begun(out) -> threading.Thread:
    """Kill the training process, as the kernel would, as soon as it has saved a state."""

    def kill() -> None:
        end = time.monotonic() + 200
        while time.monotonic() < end:
            if list(out.glob("*/training.safetensors")):
                for child in psutil.Process().children():
                    if "finetune" in child.cmdline():
                        child.kill()
                        return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes that import torch, and ten seconds before the second is tried
def test_a_killed_run_goes_on_and_the_better_checkpoint_stays(tmp_path, artifacts, monkeypatch):
    monkeypatch.setattr(promote, "MUSE_NANO_NDC", tmp_path / "none ship")
    write_brca(tmp_path / "data", side_px=128, n_nuclei=6)
    registry = tmp_path / "models"
    options = {"registry": registry, "init": "none", "overrides": QUICK}
    killer = kill_once_begun(tmp_path / "out")
    answer = finetune_ndc("brca-m2c", tmp_path / "data", tmp_path / "out", **options)
    killer.join()
    (folder,) = (tmp_path / "out").iterdir()
    assert answer["taken"]
    assert "the first to be registered" in answer["reason"]
    current = read_current(registry)
    assert current is not None
    assert answer["in_use"] == str(registry / current.checkpoint)
    assert (registry / current.checkpoint).read_bytes() == (folder / "ndc.safetensors").read_bytes()
    record = json.loads((folder / "training.json").read_text())
    assert [one["step"] for one in record["validations"]] == [2, 4, 6, 8, 10, 12]
    assert len(record["losses"]) == 12, "no step was done twice"
    starts = re.findall(r"(begins at|goes on from) step (\d+) of 12", (folder / "finetune.log").read_text())
    assert [how for how, _ in starts] == ["begins at", "goes on from"]
    assert 0 < int(starts[1][1]) < 12, "it was killed on the way"

    again = finetune_ndc("brca-m2c", tmp_path / "data", tmp_path / "out", **options)
    assert (again["taken"], again["in_use"]) == (False, answer["in_use"])
    assert "is not above" in again["reason"]
    shown = artifacts()
    assert "The checkpoint in use stays" in shown["finetune-ndc-summary"]
    rows = json.loads(shown["finetune-ndc-scores"])
    assert [row["checkpoint"] for row in rows] == ["candidate", "in use before"]
    assert rows[0]["mean class F1"] == rows[1]["mean class F1"]


def test_a_mistake_shows_before_anything_is_trained(tmp_path):
    state = finetune_ndc("brca-m2c", tmp_path, tmp_path / "out", overrides=("stepz=4",), return_state=True)
    assert state.is_failed()
    assert "unknown key 'stepz'" in str(state.message)
    assert not (tmp_path / "out").exists()
