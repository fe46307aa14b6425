"""How much depends on where tiles begin: the same slide, cut anew with the grid shifted by odd amounts.

    python -m benchmarks.infer_seams [--slide S.svs] [--side PX] [--checkpoint F] [--set engine=torch]

Nuclei of two runs are the same where they pair one to one within 1 um; the symmetric difference is what has no partner,
over the nuclei of the first run.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.infer import infer
from muse_core.machine.process import own_process
from muse_core.slide.drawn import draw_slide

SHIFTS = ((0, 0), (237, 101), (-411, 333))
SAME_UM = 1.0


def places_um(out: Path) -> NDArray[np.float64]:
    """(N, 2) of every nucleus."""
    table = pq.read_table(next(out.glob("nuclei/*/*/*.parquet")), columns=["x_um", "y_um"], partitioning=None)
    return np.column_stack([table["x_um"], table["y_um"]]).astype(np.float64)


def n_alone(one: NDArray[np.float64], other: NDArray[np.float64]) -> int:
    """Nuclei of either that have no partner in the other."""
    distance, nearest = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    pairs = int(((distance < SAME_UM) & (back[nearest] == np.arange(len(one)))).sum())
    return len(one) + len(other) - 2 * pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--side", type=int, default=8000, help="level-0 px of the drawn slide")
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="a setting of muse infer")
    args = parser.parse_args()
    overrides = [word for one in args.overrides for word in ("--set", one)]
    with tempfile.TemporaryDirectory() as name:
        slide = args.slide or Path(name) / "drawn.svs"
        if not args.slide:
            draw_slide(slide, args.side, args.side)
        found = []
        for number, (x, y) in enumerate(SHIFTS):
            infer(slide, Path(name) / str(number), args.checkpoint, *overrides, "--set", f"offset_px=[{x}, {y}]")
            found.append(places_um(Path(name) / str(number)))
    shares = [n_alone(found[0], other) / len(found[0]) for other in found[1:]]
    for shift, share in zip(SHIFTS[1:], shares, strict=True):
        print(f"grid shifted by {shift} px: {share:.3%} of {len(found[0]):,} nuclei differ")
    print(json.dumps({"benchmark": "infer_seams", "nuclei": len(found[0]), "symmetric_difference": max(shares)}))


if __name__ == "__main__":
    own_process()
    main()
