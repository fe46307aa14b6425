"""What befalls pretraining for days, on a run of a minute: does it end with the weights of an undisturbed one?

    python -m benchmarks.pretrain_faults [--kills 5] [--seed 0]

The command `muse pretrain` runs in processes of its own, with a worker that cuts views, a checkpoint each step and the
two before it kept, on drawn ROIs. One run is left alone; each of the others is befallen by something:

    nan             one step's loss is NaN: it is skipped and counted
    nan for ever    every step's from then on: the run ends with the reason, the checkpoint before stands
    damaged ROI     bytes of a part are altered: another ROI is taken, the one left out is named
    worker killed   SIGKILL to the process that cuts views: it is started again
    disk full       no file may grow beyond 64 kB any more: the run ends with the reason, files stay; resumed with room
    SIGTERM         a checkpoint and status 130; resumed
    kill -9         at random moments, resumed each time, until the run has come to its end

Weights are every tensor of the checkpoint (student, teacher, centres, optimiser) and of the exported backbone; `equal`
is bit for bit. A line a fault, JSON at the end, and status 1 where anything came out otherwise than it should.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch

from muse_core.cli.app import main as muse
from muse_core.pretrain import trainer
from muse_core.pretrain.network import Student
from muse_core.roi_dataset.image import encode_roi
from muse_core.roi_dataset.write import RoiRow, part_path, write_rois
from muse_core.training.checkpoint import not_finite, read_checkpoint

STEPS, ROIS, SIDE_PX, NUCLEI, PARTS = 12, 16, 160, 8, 4
SETTINGS = (
    f"steps={STEPS}",
    "batch_size=4",
    "precision=fp32",
    "backbone.preset=test_efficientnet",
    "backbone.imagenet=false",
    "standardised_at_mpp=0",
    "views.global_px=64",
    "views.local_px=32",
    "views.local_views=2",
    "views.global_mpp=[0.25, 0.5]",
    "views.local_mpp=[0.25, 0.5]",
    "image_head.prototypes=24",
    "nucleus_head.prototypes=32",
    "optimiser.freeze_stages=0",
    "run.threads=1",
    "run.workers=1",
    "run.log_every=1",
    "run.checkpoint_minutes=0",
    "run.keep_checkpoints=3",
    "run.most_skipped=3",
)
AT_STEP = 5  # of what befalls a run at a step
CHECKPOINT, BACKBONE, CARD = "checkpoint.safetensors", "muse-backbone.safetensors", "muse-backbone.json"
LEFT_BYTES = 64 * 2**10  # on the full disk: room for curves, not for a checkpoint
PATIENCE_S = 600

FAULTS = ("nan", "nan_for_ever", "damaged_roi", "worker_killed", "disk_full", "sigterm", "kill_9")

Fault = Callable[[], None]  # done in the run's own process before it begins


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        fault: what befell it.
        as_it_should: whether it ended as the fault asks.
        equal: whether its weights are the undisturbed run's; None where they cannot be.
        said: what was left out, or the last line that it wrote.
    """

    fault: str
    as_it_should: bool
    equal: bool | None
    said: str


def write_rois_of_noise(out: Path) -> None:
    """ROIs in a few parts; what they show is of no matter here."""
    for part in range(PARTS):
        rows = [_row(part, number) for number in range(ROIS // PARTS)]
        write_rois(part_path(out, "P", f"slide_{part}", 0), rows, {})


def _row(part: int, number: int) -> RoiRow:
    rng = np.random.default_rng([part, number])
    xy = rng.uniform(20, SIDE_PX - 20, (NUCLEI, 2))
    nuclei = np.column_stack([xy, np.ones(NUCLEI)]).astype(np.float32)
    image = encode_roi(rng.integers(80, 250, (SIDE_PX, SIDE_PX, 3), np.uint8), tile_px=64)
    place = (0.0, 0.0, float(SIDE_PX), float(SIDE_PX))
    return RoiRow(
        f"roi_{part}_{number}", f"slide_{part}", "case", "P", *place, 0.25, SIDE_PX, SIDE_PX, 1.0, nuclei, image
    )


class Run:
    """`muse pretrain` in a process of its own: forked, as to import everything again would take most of the time."""

    def __init__(self, rois: Path, out: Path, *, fault: Fault | None = None, resume: bool = False) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        self.pid = os.fork()
        if self.pid == 0:
            self._be(rois, resume, fault)

    def _be(self, rois: Path, resume: bool, fault: Fault | None) -> None:
        with self.log.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        status = 1
        try:
            torch.set_num_threads(1)
            if fault:
                fault()
            chosen = [word for one in SETTINGS for word in ("--set", one)]
            given = ["pretrain", "--rois", str(rois), "--out", str(self.out), *chosen, "--device", "cpu"]
            sys.argv = ["muse", *given, *(["--resume"] if resume else [])]
            muse()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0) if isinstance(end.code, int | None) else 1
        finally:
            sys.stdout.flush()
            os._exit(status)

    def ended(self, wait_s: float = PATIENCE_S) -> int | None:
        """Its exit status, or minus the signal that ended it; None where it still runs after so long."""
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None

    def wait_for_step(self, step: int) -> None:
        """Until its curves hold a step."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.step() < step:
            time.sleep(0.02)

    def step(self) -> int:
        """The last step that its curves hold; 0 for none."""
        try:
            lines = (self.out / "metrics.jsonl").read_text().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, IndexError, json.JSONDecodeError):
            return 0

    def kill(self) -> None:
        """SIGKILL to it and to its workers."""
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        os.waitpid(self.pid, 0)

    def last_line(self) -> str:
        """Of what it wrote."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("muse: ")]
        return lines[-1] if lines else ""


def weights(out: Path) -> str:
    """What tells a run's weights from others': a digest of every tensor that it leaves."""
    digest = sha256()
    for name, tensor in sorted(read_checkpoint(out / CHECKPOINT).tensors.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(_tensors_of(out / BACKBONE))
    return digest.hexdigest()


def _tensors_of(path: Path) -> bytes:
    """A safetensors file without its header, in which the run's seconds stand."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def card(out: Path) -> dict[str, object]:
    return dict(json.loads((out / CARD).read_text()))


def is_finite(out: Path) -> bool:
    return not_finite(read_checkpoint(out / CHECKPOINT).tensors) is None


@contextmanager
def losses_changed(first: int, last: int) -> Iterator[None]:
    """The student's L_image is NaN in its calls from `first` to `last`."""
    forward, calls = Student.forward, [0]

    def changed(self: Student, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        image, nucleus = forward(self, *arguments)  # type: ignore[arg-type]
        calls[0] += 1
        return (image * float("nan") if first <= calls[0] <= last else image), nucleus

    Student.forward = changed  # type: ignore[method-assign, assignment]
    yield


def nan_in_steps(first: int, last: int) -> Fault:
    return lambda: losses_changed(first, last).__enter__()


def full_disk_at(step: int) -> Fault:
    """From the `step`th checkpoint on, no file may become larger than `LEFT_BYTES`."""

    def befall() -> None:
        save, saved = trainer.save_run, [0]

        def limited(*arguments: object) -> None:
            saved[0] += 1
            if saved[0] == step:
                resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT_BYTES, resource.RLIM_INFINITY))
            save(*arguments)  # type: ignore[arg-type]

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        trainer.save_run = limited

    return befall


class Drill:
    """Runs of one recipe, compared with one that nothing befell; a method a fault, as the module's text says."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills, self.rng = folder, kills, random.Random(seed)
        self.rois = folder / "rois"
        write_rois_of_noise(self.rois)
        begun = time.monotonic()
        run = self.begun("calm")
        assert run.ended() == 0, run.log.read_text()
        self.calm_s, self.weights = time.monotonic() - begun, weights(run.out)

    def begun(self, name: str, *, fault: Fault | None = None, resume: bool = False, rois: Path | None = None) -> Run:
        """A run of it, in a folder of that name."""
        return Run(rois or self.rois, self.folder / name, fault=fault, resume=resume)

    def same(self, out: Path) -> bool:
        """Whether a run left the weights of the undisturbed one."""
        return weights(out) == self.weights

    def nan(self) -> Outcome:
        """See the module's text."""
        run = self.begun("nan", fault=nan_in_steps(AT_STEP, AT_STEP))
        ended, skipped = run.ended(), card(run.out)["skipped_steps"]
        return Outcome("nan", ended == 0 and skipped == 1 and is_finite(run.out), None, f"{skipped} step was skipped")

    def nan_for_ever(self) -> Outcome:
        """See the module's text."""
        run = self.begun("nan-for-ever", fault=nan_in_steps(AT_STEP, 10**9))
        ended, said = run.ended(), run.last_line()
        stands = is_finite(run.out) and "steps in a row were skipped" in said
        return Outcome("nan for ever", ended == 1 and stands, None, said)

    def damaged_roi(self) -> Outcome:
        """See the module's text."""
        damaged = self.folder / "damaged"
        shutil.copytree(self.rois, damaged)
        path = next(damaged.rglob("part-slide_1-*.parquet"))
        about = pq.ParquetFile(path).metadata.row_group(2)
        image = next(about.column(i) for i in range(about.num_columns) if about.column(i).path_in_schema == "image")
        data = bytearray(path.read_bytes())
        at = image.data_page_offset + image.total_compressed_size // 2
        data[at : at + 64] = bytes(64)
        path.write_bytes(data)
        run = self.begun("damaged-roi", rois=damaged)
        ended, left_out = run.ended(), card(run.out)["rois_left_out"]
        return Outcome("damaged ROI", ended == 0 and bool(left_out) and is_finite(run.out), None, f"{left_out}")

    def worker_killed(self) -> Outcome:
        """See the module's text."""
        run = self.begun("worker-killed")
        run.wait_for_step(AT_STEP)
        workers = psutil.Process(run.pid).children(recursive=True)
        for worker in workers:
            worker.kill()
        ended = run.ended()
        return Outcome("worker killed", ended == 0, self.same(run.out), f"{len(workers)} worker was killed")

    def disk_full(self) -> Outcome:
        """See the module's text."""
        run = self.begun("disk-full", fault=full_disk_at(AT_STEP))
        ended, said = run.ended(), run.last_line()
        before = read_checkpoint(run.out / CHECKPOINT).about["step"]
        stands = before == AT_STEP - 1 and not list(run.out.rglob(".*.tmp"))
        resumed = self.begun("disk-full", resume=True).ended()
        right = ended == 1 and "no space left" in said and stands and resumed == 0
        return Outcome("disk full", right, self.same(run.out), f"step {before} stood; {said}")

    def sigterm(self) -> Outcome:
        """See the module's text."""
        run = self.begun("sigterm")
        run.wait_for_step(AT_STEP)
        os.kill(run.pid, signal.SIGTERM)
        ended, step = run.ended(), read_checkpoint(run.out / CHECKPOINT).about["step"]
        resumed = self.begun("sigterm", resume=True).ended()
        return Outcome("SIGTERM", ended == 130 and resumed == 0, self.same(run.out), f"stopped at step {step}")

    def kill_9(self) -> Outcome:
        """Kills at a random moment after a random one of the next steps, so that each hits a run at work."""
        out, steps = self.folder / "killed", [0]
        for _ in range(self.kills):
            if steps[-1] >= STEPS - 1:
                break  # nothing is left to be hit
            run = self.begun("killed", resume=True)
            run.wait_for_step(min(steps[-1] + self.rng.randint(1, 3), STEPS - 1))
            if run.ended(self.rng.uniform(0, self.calm_s / STEPS)) is not None:
                break
            run.kill()
            steps.append(int(read_checkpoint(out / CHECKPOINT).about["step"]))  # raises where it is not whole
        ended = self.begun("killed", resume=True).ended()
        right = ended == 0 and steps == sorted(steps) and len(steps) > 1
        return Outcome("kill -9", right, self.same(out), f"killed with checkpoints of steps {steps[1:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=FAULTS, help="faults; default all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drill = Drill(Path(name), arguments.kills, arguments.seed)
        print(f"undisturbed: {STEPS} steps, {drill.calm_s:.0f} s", flush=True)
        outcomes = []
        for fault in arguments.only:
            outcome: Outcome = getattr(drill, fault)()
            outcomes.append(outcome)
            equal = {None: "finite weights", True: "equal weights", False: "OTHER WEIGHTS"}[outcome.equal]
            ended = "as it should" if outcome.as_it_should else "NOT AS IT SHOULD"
            print(f"{outcome.fault:14s}{ended:18s}{equal:16s}{outcome.said[:160]}", flush=True)
    print(json.dumps({"benchmark": "pretrain_faults", "outcomes": [vars(one) for one in outcomes]}))
    sys.exit(not all(one.as_it_should and one.equal is not False for one in outcomes))


if __name__ == "__main__":
    main()
