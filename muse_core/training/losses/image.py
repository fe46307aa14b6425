"""L_image: each student view learns what the teacher says of every other global view of the same ROI.

Source: MUSE eq. 3, https://arxiv.org/abs/2511.05170, which is DINO's loss, https://arxiv.org/abs/2104.14294. Checked
against a plain restatement of DINO's published loop in tests/training/losses/test_image.py.
"""

import torch

from muse_core.training.losses.distillation import Pairing


def image_pairing(n_global: int, n_views: int, batch: int, *, device: torch.device | str = "cpu") -> Pairing:
    """Pairs of a batch's views; the loss over them is a mean over ROIs and over pairs (g, v), v != g.

    Teacher rows lie in order (g, b) and student rows in order (v, b); the first `n_global` views are the global ones.

    Args:
        n_global: views the teacher sees, G.
        n_views: views the student sees, V.
        batch: ROIs of this process and step; all processes must have as many, since gradients are averaged over them.
        device: where the tables lie.

    Returns:
        Pairing of V * B rows with weights that sum to 1, or to 0 where there is no pair at all.
    """
    view = torch.arange(n_views, device=device).repeat_interleave(batch)  # (V*B,)
    roi = torch.arange(batch, device=device).repeat(n_views)
    teacher_view = torch.arange(n_global, device=device)
    paired = (view[:, None] != teacher_view).float()  # (V*B, G)
    return Pairing(teacher_view * batch + roi[:, None], paired / paired.sum().clamp(min=1))
