"""Kills muse infer with SIGKILL at random moments over five slides, runs it again, compares every row.

python -m benchmarks.infer_kill [--kills 50] [--side 6000] [--checkpoint F]
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.kill_and_rerun import kill_group
from muse_core.slide.drawn import draw_slide

SLIDES = "abcde"
OF_THE_RUN = ("seconds", "seconds_per_mm2", "read_share", "network_share", "write_share", "waiting_share", "gpu_use")


def tables(out: Path) -> tuple[list[dict], dict[str, bytes]]:
    """The slides table but for what the run took, and every byte of the dataset's rows."""
    slides = [row | dict.fromkeys(OF_THE_RUN) for row in pq.read_table(out / "slides.parquet").to_pylist()]
    return slides, {str(part.relative_to(out)): part.read_bytes() for part in sorted(out.glob("nuclei/*/*/*.parquet"))}


def wait_until_working(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until this run has put something new on the disk: a kill during imports would prove nothing."""
    begun = time.time()
    while process.poll() is None:
        files = (path for folder in (".staging", "records") for path in (out / folder).rglob("*"))
        if any(changed_since(path, begun) for path in files):
            return
        time.sleep(0.02)


def changed_since(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime > moment
    except FileNotFoundError:  # moved or removed meanwhile
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, slide in enumerate(SLIDES):
            draw_slide(folder / "slides" / f"{slide}.svs", args.side, args.side - 500 * number)

        def command(out: str) -> list[str]:
            arguments = ["infer", "--slides", str(folder / "slides"), "--out", str(folder / out)]
            arguments += ["--checkpoint", str(args.checkpoint)] if args.checkpoint else []
            return [sys.executable, "-m", "muse_core.cli", *arguments, "--set", "group_tiles=2"]

        begun = time.monotonic()
        subprocess.run(command("calm"), check=True, stdout=subprocess.DEVNULL)
        calm_s = time.monotonic() - begun
        finished = equal = kills = 0
        while kills < args.kills:
            process = subprocess.Popen(
                command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            wait_until_working(folder / "killed", process)
            try:
                process.wait(rng.uniform(0, 0.5 * calm_s))
            except subprocess.TimeoutExpired:
                kill_group(process)
                kills += 1
                continue
            # It came to its end: compare, and begin afresh so that the remaining kills have something to hit.
            finished += 1
            equal += tables(folder / "killed") == tables(folder / "calm")
            shutil.rmtree(folder / "killed")
        subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
        finished += 1
        equal += tables(folder / "killed") == tables(folder / "calm")
    print(
        f"{kills} kills over {len(SLIDES)} slides; {finished} runs came to their end after them, {equal} with every "
        f"byte of the undisturbed run's dataset ({calm_s:.0f} s undisturbed)"
    )
    print(json.dumps({"benchmark": "infer_kill", "kills": kills, "finished": finished, "equal": equal}))
    sys.exit(equal != finished)


if __name__ == "__main__":
    main()
