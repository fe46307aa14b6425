"""One-to-one matching of proposals with labelled nuclei: the exact optimum, found among few candidates.

The cost of giving nucleus j to proposal i is distance_weight * distance(i, j) - probability(i, class of j); every
nucleus gets one proposal and the total is least. All proposals against all nuclei is a dense problem of millions of
pairs; here each nucleus brings its cheapest candidates near by, a sparse solver does the rest, and a certificate says
whether any pair left out could have mattered. Where it could, more candidates come in and it is solved again.

Source: the cost is that of DPA-P2PNet (Shui et al.), https://github.com/windygoo/PromptNucSeg.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree

from muse_core.geometry import Points

DISTANCE_WEIGHT = 0.1  # a px; a certain class is worth 10 px. Source: PromptNucSeg, prompter

_REACH_PX = 16.0  # candidates at first; grows where the certificate asks for it
_CANDIDATES = 12  # a nucleus, at first


def assign(
    proposal_xy: Points,
    probabilities: NDArray[np.floating],
    nucleus_xy: Points,
    class_ids: NDArray[np.integer],
    *,
    distance_weight: float = DISTANCE_WEIGHT,
) -> NDArray[np.int64]:
    """The proposal of each nucleus, at the least total cost.

    Args:
        proposal_xy: (P, 2) where proposals say nuclei are, px.
        probabilities: (P, C), 0..1, of the classes of nuclei.
        nucleus_xy: (N, 2) labelled nuclei, px of the same frame.
        class_ids: (N,) column of each nucleus' class in `probabilities`; -1 where it is not known, and any class does.
        distance_weight: cost of a px; above 0.

    Returns:
        (N,) int64 row of the proposal of each nucleus; no row twice. -1 for nuclei that go without, as some must where
        there are more nuclei than proposals.
    """
    proposals, nuclei = np.asarray(proposal_xy, np.float64), np.asarray(nucleus_xy, np.float64)
    if not len(nuclei) or not len(proposals):
        return np.full(len(nuclei), -1, np.int64)
    chances = np.asarray(probabilities, np.float64)
    chances = np.column_stack([chances, chances.sum(axis=1)])  # the last column, -1: of being a nucleus at all
    if len(nuclei) > len(proposals):
        return _dense(proposals, chances, nuclei, class_ids, distance_weight)
    trees = KDTree(nuclei), KDTree(proposals)
    best_chance = chances.max(axis=0)[class_ids]  # (N,): no proposal anywhere is likelier
    reach, keep = _REACH_PX, _CANDIDATES
    while keep < len(proposals):
        near = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
        cost = distance_weight * near["v"] - chances[near["j"], class_ids[near["i"]]]
        order = np.lexsort((cost, near["i"]))
        rank = _rank_in_group(near["i"][order])
        left_out = distance_weight * reach - best_chance  # (N,) least cost that a pair left out can have
        first_out = order[rank == keep]
        left_out[near["i"][first_out]] = np.minimum(left_out[near["i"][first_out]], cost[first_out])
        order = order[rank < keep]
        found = _sparse(near["i"][order], near["j"][order], cost[order], (len(nuclei), len(proposals)))
        if found is not None and _certified(found, near["i"][order], near["j"][order], cost[order], left_out):
            return found
        reach, keep = reach * 2, keep * 2
    return _dense(proposals, chances, nuclei, class_ids, distance_weight)


def _sparse(
    rows: NDArray[np.intp], columns: NDArray[np.intp], cost: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.int64] | None:
    """The optimum among the candidates, (N,) proposal of each nucleus; None where they don't suffice for all."""
    if len(np.unique(rows)) < shape[0]:
        return None
    used, columns = np.unique(columns, return_inverse=True)  # the solver's work grows with the columns
    if len(used) < shape[0]:
        return None
    # All costs up by one constant: the same optimum, and no cost is 0, which would mean no candidate.
    graph = csr_array((cost - cost.min() + 1, (rows, columns)), shape=(shape[0], len(used)))
    try:
        _, partner = min_weight_full_bipartite_matching(graph)
    except ValueError:  # too many nuclei share too few candidates
        return None
    return np.asarray(used[partner], np.int64)


def _certified(
    found: NDArray[np.int64],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    cost: NDArray[np.float64],
    left_out: NDArray[np.float64],
) -> bool:
    """Whether the optimum among the candidates is that of the full problem.

    By linear programming duality the price of a proposal that stays free is 0 and that of a nucleus is at most the cost
    of any free candidate. A pair left out that costs at least as much as a free candidate of its nucleus breaks no dual
    constraint, so the optimum holds with it, too.
    """
    free = ~np.isin(columns, found)
    cheapest_free = np.full(len(found), np.inf)
    np.minimum.at(cheapest_free, rows[free], cost[free])
    return bool((cheapest_free <= left_out).all())


def _dense(
    proposals: Points,
    chances: NDArray[np.float64],
    nuclei: Points,
    class_ids: NDArray[np.integer],
    distance_weight: float,
) -> NDArray[np.int64]:
    """All against all."""
    distance = np.linalg.norm(nuclei[:, None] - proposals[None], axis=2)  # (N, P)
    rows, columns = linear_sum_assignment(distance_weight * distance - chances[:, class_ids].T)
    found = np.full(len(nuclei), -1, np.int64)
    found[rows] = columns
    return found


def _rank_in_group(sorted_groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Position of each item within its run of equal values: [4, 4, 7, 7, 7] -> [0, 1, 0, 1, 2]."""
    rows = np.arange(len(sorted_groups))
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    return rows - np.repeat(starts, np.diff(starts, append=len(rows)))
