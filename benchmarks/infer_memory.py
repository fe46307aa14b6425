"""Peak memory of muse infer over slides of growing side: it should not grow with the slide.

    python -m benchmarks.infer_memory [--sides 10000 20000 40000] [--checkpoint F]

Peak is the largest sum of resident memory over the command and all its child processes, sampled every 20 ms. The
tissue is scikit-image's, whose nuclei are dense: the network's answers on it are not the point.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.build_memory import peak_of
from muse_core.machine.process import own_process
from muse_core.slide.drawn import draw_slide


def measure(folder: Path, side: int, checkpoint: Path | None) -> dict[str, object]:
    slide = folder / f"{side}.svs"
    draw_slide(slide, side, side)
    arguments = ["infer", "--slides", str(slide), "--out", str(folder / f"out-{side}"), "--json"]
    arguments += ["--checkpoint", str(checkpoint)] if checkpoint else []
    peak, summary = peak_of([sys.executable, "-m", "muse_core.cli", *arguments])
    slide.unlink()
    wanted = ("n_nuclei", "tissue_mm2", "seconds", "seconds_per_mm2")
    return {"side_px": side, "peak_bytes": peak, **{key: summary[key] for key in wanted}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for side in args.sides:
            rows.append(measure(Path(name), side, args.checkpoint))
            row, ratio = rows[-1], rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
            print(
                f"{side:7,d} px  peak {row['peak_bytes'] / 2**30:5.2f} GiB  {ratio:5.2f} x the first  "
                f"{row['n_nuclei']:9,d} nuclei on {row['tissue_mm2']:6.1f} mm2  {row['seconds_per_mm2']:.2f} s/mm2",
                flush=True,
            )
    largest_over_first = rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
    print(json.dumps({"benchmark": "infer_memory", "rows": rows, "largest_over_first": largest_over_first}))


if __name__ == "__main__":
    own_process()
    main()
