"""L_nu: each nucleus in a student view learns what the teacher says of it in every other global view (NuLo).

    valid (V, N) ─▶ matched_nuclei: (G, V, N) ─▶ pair_weights: (G, V), a mean over the whole step ─▶ nucleus_rows

Equation 6 is a sum over the matched nuclei of one pair of views; here the loss of a pair is the mean over all its
matched nuclei in the step (every ROI, every process), and L_nu the mean over the pairs that have any. A plain sum would
make lambda_nu depend on how many nuclei tissue and detector give. Both networks look at matched nuclei alone, and these
alone move the teacher's centre; the others would cost as much in the head and teach nothing.

Source: MUSE eq. 5 and 6, https://arxiv.org/abs/2511.05170; the normalisation is ours, the paper gives none.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from muse_core.training.losses.distillation import Pairing
from muse_core.training.losses.ranks import summed_over_ranks, world_size

StudentViews = Literal["all", "global"]


class NucleusRows(NamedTuple):
    """The nuclei that each network has to look at, and how they are paired.

    Attributes:
        teacher_view, teacher_nucleus: (T,) int64, global view and nucleus of each teacher row.
        student_view, student_nucleus: (R,) int64, the same of each student row.
        pairing: R rows.
    """

    teacher_view: Tensor
    teacher_nucleus: Tensor
    student_view: Tensor
    student_nucleus: Tensor
    pairing: Pairing


def matched_nuclei(valid: Tensor, *, n_global: int, student_views: StudentViews = "all") -> Tensor:
    """Which nuclei are in both views of each pair: (G, V, N) bool.

    Args:
        valid: (V, N) bool, nucleus is in the view; the first `n_global` views are the global ones.
        n_global: views the teacher sees, G.
        student_views: `global` leaves local views out of L_nu.
    """
    n_views = len(valid) if student_views == "all" else n_global
    teacher_view = torch.arange(n_global, device=valid.device)
    student_view = torch.arange(len(valid), device=valid.device)
    paired = (teacher_view[:, None] != student_view) & (student_view < n_views)  # (G, V)
    return valid[:n_global, None] & valid[None] & paired[:, :, None]  # (G, V, N)


def pair_weights(counts: Tensor) -> Tensor:
    """What one match of each pair counts: (G, V) matches of this process in the whole step to (G, V) float32.

    Summed over all processes and divided by their number, as DistributedDataParallel does with gradients, matches
    weighted so give the mean over each pair's matches and then over the pairs that have any. Every process must call.
    """
    total = summed_over_ranks(counts.float())
    n_pairs = (total > 0).sum().clamp(min=1)
    return torch.where(total > 0, world_size() / (total.clamp(min=1) * n_pairs), 0.0)


def nucleus_rows(matched: Tensor, weights: Tensor) -> NucleusRows:
    """List what must be computed: each (view, nucleus) once per network, however many pairs it is in.

    Args:
        matched: (G, V, N) bool of `matched_nuclei`.
        weights: (G, V) of `pair_weights`.
    """
    teacher_view, teacher_nucleus = matched.any(dim=1).nonzero(as_tuple=True)
    student_view, student_nucleus = matched.any(dim=0).nonzero(as_tuple=True)
    table = torch.zeros(matched.shape[0], matched.shape[2], dtype=torch.int64, device=matched.device)
    table[teacher_view, teacher_nucleus] = torch.arange(len(teacher_view), device=matched.device)
    paired = matched[:, student_view, student_nucleus].T  # (R, G)
    pairing = Pairing(table[:, student_nucleus].T, paired * weights[:, student_view].T)
    return NucleusRows(teacher_view, teacher_nucleus, student_view, student_nucleus, pairing)
