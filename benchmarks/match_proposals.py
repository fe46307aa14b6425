"""Time the matching of 16,384 proposals with 300 nuclei, those of a sample of 1024 px, against the dense solver.

    python -m benchmarks.match_proposals [--proposals 16384] [--nuclei 300] [--samples 10]

ours    `muse_core.ndc.assign`: near candidates, a sparse solver and a certificate that nothing left out matters
dense   `scipy.optimize.linear_sum_assignment` on all pairs, whose cost matrix is part of its time, as it is of ours

Both are solved in one process on one core and must reach the same total cost. Two kinds of sample: `trained`, where
proposals point at nuclei and are sure of some, and `fresh`, where offsets and probabilities are still noise.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from muse_core.ndc.assign import DISTANCE_WEIGHT, assign

SPACING_PX = 8
N_CLASSES = 3

Sample = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def draw(n_proposals: int, n_nuclei: int, seed: int, *, trained: bool) -> Sample:
    """Proposals (P, 2), probabilities (P, C), nuclei (N, 2) and their classes."""
    rng = np.random.default_rng(seed)
    columns = round(np.sqrt(n_proposals))
    rows = np.arange(n_proposals)
    grid = SPACING_PX * (np.column_stack([rows % columns, rows // columns]) + 0.5)
    nuclei = rng.uniform(0, SPACING_PX * columns, (n_nuclei, 2))
    class_ids = rng.integers(0, N_CLASSES, n_nuclei)
    if not trained:
        chances = rng.dirichlet([0.3] * N_CLASSES + [1.5], n_proposals)[:, :N_CLASSES]
        return grid + rng.normal(0, 3, grid.shape), chances, nuclei, class_ids
    distance = np.linalg.norm(grid[:, None] - nuclei[None], axis=2)
    nearest = distance.argmin(1)
    near = distance[np.arange(n_proposals), nearest] < 12
    proposals = np.where(near[:, None], nuclei[nearest], grid) + rng.normal(0, 1, grid.shape)
    chances = np.full((n_proposals, N_CLASSES), 0.01)
    chances[near, class_ids[nearest[near]]] = rng.beta(2, 2, int(near.sum()))
    return proposals, chances, nuclei, class_ids


def dense(sample: Sample) -> NDArray[np.int64]:
    """The proposal of each nucleus, from all pairs."""
    cost = cost_of(sample)
    rows, columns = linear_sum_assignment(cost)
    found = np.full(len(cost), -1, np.int64)
    found[rows] = columns
    return found


def cost_of(sample: Sample) -> NDArray[np.float64]:
    """(N, P) cost of every pair."""
    proposals, chances, nuclei, class_ids = sample
    distance = np.linalg.norm(nuclei[:, None] - proposals[None], axis=2)
    return DISTANCE_WEIGHT * distance - chances[:, class_ids].T


def timed(solve: Callable[[Sample], NDArray[np.int64]], samples: list[Sample]) -> tuple[list[float], list[float]]:
    """Milliseconds of each sample, and the total cost that was reached."""
    took, totals = [], []
    for sample in samples:
        begun = time.perf_counter()
        found = solve(sample)
        took.append(1000 * (time.perf_counter() - begun))
        totals.append(float(cost_of(sample)[np.arange(len(found)), found].sum()))
    return took, totals


def compare(samples: list[Sample]) -> dict[str, float]:
    """Both solvers on the same samples."""
    ours_ms, ours_cost = timed(lambda sample: assign(*sample), samples)
    dense_ms, dense_cost = timed(dense, samples)
    if not np.allclose(ours_cost, dense_cost, rtol=0, atol=1e-6):
        raise SystemExit(f"total costs differ: {ours_cost} and {dense_cost}")
    return {
        "ours_ms": float(np.median(ours_ms)),
        "ours_slowest_ms": max(ours_ms),
        "dense_ms": float(np.median(dense_ms)),
        "dense_over_ours": float(np.median(dense_ms) / np.median(ours_ms)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=16_384)
    parser.add_argument("--nuclei", type=int, default=300)
    parser.add_argument("--samples", type=int, default=10)
    args = parser.parse_args()
    figures: dict[str, Any] = {"proposals": args.proposals, "nuclei": args.nuclei, "limit_ms": 50}
    print(f"{args.proposals:,} proposals x {args.nuclei} nuclei, {args.samples} samples, one core, ms a sample")
    print(f"{'':<10}{'ours':>10}{'slowest':>10}{'dense':>10}{'ratio':>10}")
    for kind in ("trained", "fresh"):
        samples = [draw(args.proposals, args.nuclei, seed, trained=kind == "trained") for seed in range(args.samples)]
        found = compare(samples)
        figures |= {f"{kind}_{name}": value for name, value in found.items()}
        print(f"{kind:<10}" + "".join(f"{value:>10.1f}" for value in found.values()))
    print(json.dumps({"benchmark": "match_proposals", **figures}))


if __name__ == "__main__":
    main()
