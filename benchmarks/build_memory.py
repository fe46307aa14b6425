"""Peak memory of build-tcga-nu over slides of growing side: it should not grow with the slide.

    python -m benchmarks.build_memory [--sides 10000 20000 40000]

Peak is the largest sum of resident memory over the command and all its child processes, sampled every 20 ms.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from muse_core.machine.process import own_process
from muse_core.slide.drawn import draw_slide


def tree_rss_bytes(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def peak_of(command: list[str]) -> tuple[int, dict[str, object]]:
    """Peak bytes of a command's process tree, and the JSON of its last line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        root, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                peak = max(peak, tree_rss_bytes(root))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak, json.loads(output.splitlines()[-1])


def measure(folder: Path, side: int) -> dict[str, object]:
    slide = folder / f"{side}.svs"
    draw_slide(slide, side, side)
    manifest = folder / f"{side}.csv"
    manifest.write_text(f"slide_id,case_id,project,uri\ns{side},c,BENCH,{slide}\n")
    arguments = [
        "build-tcga-nu",
        "--manifest",
        str(manifest),
        "--out",
        str(folder / f"out-{side}"),
        "--workers",
        "2",
        "--json",
    ]
    peak, summary = peak_of([sys.executable, "-m", "muse_core.cli", *arguments])
    slide.unlink()
    return {
        "side_px": side,
        "peak_bytes": peak,
        "reported_bytes": summary["peak_rss_bytes"],
        "rois": summary["n_rois"],
        "seconds": summary["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = [measure(Path(name), side) for side in args.sides]
    for row in rows:
        ratio = row["peak_bytes"] / rows[0]["peak_bytes"]
        print(
            f"{row['side_px']:7,d} px  peak {row['peak_bytes'] / 2**30:5.2f} GiB  {ratio:5.2f} x the first  "
            f"{row['rois']} ROIs  {row['seconds']:.1f} s"
        )
    print(
        json.dumps(
            {
                "benchmark": "build_memory",
                "rows": rows,
                "largest_over_first": rows[-1]["peak_bytes"] / rows[0]["peak_bytes"],
            }
        )
    )


if __name__ == "__main__":
    own_process()
    main()
