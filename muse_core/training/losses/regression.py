"""L_reg: how far matched proposals land from their nuclei."""

from torch import Tensor


def regression_loss(predicted_xy: Tensor, nucleus_xy: Tensor) -> Tensor:
    """Squared distance in px², averaged over matched nuclei; 0, and still differentiable, where there is none.

    The weight of this term in the total belongs to the caller, under the term's own name: the published P2PNet weighs a
    loss that its dictionary does not hold, and so trains without it.

    Args:
        predicted_xy: (N, 2) where the matched proposals say the nuclei are, px.
        nucleus_xy: (N, 2) the nuclei they were matched to, px, in the same order.

    Source: paper, eq. 9 (mean squared error). The trap:
    https://github.com/TencentYoutuResearch/CrowdCounting-P2PNet, issues 32 and 48.
    """
    squared = (predicted_xy - nucleus_xy).square().sum()
    return squared / max(1, len(nucleus_xy))
