"""Kills a build with SIGKILL at random moments, runs it again, compares its tables with an undisturbed run's.

python -m benchmarks.kill_and_rerun [--kills 20] [--workers 2]
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from muse_core.slide.drawn import draw_slide


def tables(out: Path) -> tuple[list[dict], list[dict]]:
    """Everything a build wrote but the time it took."""
    slides = [row | {"seconds": None} for row in pq.read_table(out / "slides.parquet").to_pylist()]
    parts = sorted(out.glob("rois/*/*.parquet"))
    return slides, [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the run and its workers at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_begun(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until there is work to lose: a kill during imports would prove nothing."""
    while process.poll() is None and not any(out.glob(".staging/*/*/*")):
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slide in "abc":
            draw_slide(folder / f"{slide}.svs", 9600, 7200)
        manifest = folder / "m.csv"
        manifest.write_text(
            "slide_id,case_id,project,uri\n" + "".join(f"{slide},c,P{slide},{slide}.svs\n" for slide in "abc")
        )

        def command(out: str) -> list[str]:
            arguments = [
                "build-tcga-nu",
                "--manifest",
                str(manifest),
                "--out",
                str(folder / out),
                "--workers",
                str(args.workers),
            ]
            return [sys.executable, "-m", "muse_core.cli", *arguments, "--set", "chunk_rois=4"]

        begun = time.monotonic()
        subprocess.run(command("calm"), check=True, stdout=subprocess.DEVNULL)
        calm_s = time.monotonic() - begun
        finished = equal = 0
        for _ in range(args.kills):
            process = subprocess.Popen(
                command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            wait_until_begun(folder / "killed", process)
            try:
                process.wait(rng.uniform(0, 0.8 * calm_s))
            except subprocess.TimeoutExpired:
                kill_group(process)
                continue
            # It came to its end: compare, and begin afresh so that the remaining kills have something to hit.
            finished += 1
            equal += tables(folder / "killed") == tables(folder / "calm")
            shutil.rmtree(folder / "killed")
        subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
        finished += 1
        equal += tables(folder / "killed") == tables(folder / "calm")
    kills = args.kills - finished + 1
    print(
        f"{kills} kills; {finished} runs came to their end after them, {equal} with the undisturbed run's tables "
        f"({calm_s:.0f} s undisturbed)"
    )
    print(json.dumps({"benchmark": "kill_and_rerun", "kills": kills, "finished": finished, "equal": equal}))
    sys.exit(equal != finished)


if __name__ == "__main__":
    main()
