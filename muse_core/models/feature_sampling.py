"""Features of nuclei: read off a map at continuous points, all images of a batch in one go."""

from typing import Literal

import torch
from torch import Tensor

SamplingMode = Literal["exact", "official"]


def sample_at(
    feature_map: Tensor,
    xy: Tensor,
    image_index: Tensor,
    *,
    side_px: tuple[int, int],
    mode: SamplingMode = "exact",
) -> Tensor:
    """Bilinear features at nuclei; differentiable in the map.

    Only the four map pixels around each point are touched, so a map in bfloat16 is never copied to float32 as a
    grid_sample under autocast would, and images may hold any number of nuclei, none included. No copy of the map is
    made at all where it is in channels_last memory, as the backbone returns it.

    Args:
        feature_map: (B, D, h, w), any float type.
        xy: (N, 2) float32, continuous px of the images that went in: the centre of the top-left pixel is (0.5, 0.5).
            Points outside count as the nearest point of the map's border.
        image_index: (N,) int64, which of the B images each point is in.
        side_px: width and height of those images.
        mode: `exact` puts the centre of map pixel (i, j) at (i + 0.5, j + 0.5) times the stride. `official` stretches
            the map so that the centres of its border pixels lie on the image's border: what the released weights were
            trained with, up to half a token (8 px for a ViT) off near the border.

    Returns:
        (N, D) of the map's type, interpolated in float32.

    Source: the look-up of `official`: grid = 2 c / S - 1 with align_corners,
    https://github.com/alibaba-damo-academy/MUSE (models/nuclei_extractor.py).
    """
    batch, channels, height, width = feature_map.shape
    x, x_share = _cell_and_share(xy[:, 0], width, side_px[0], mode)
    y, y_share = _cell_and_share(xy[:, 1], height, side_px[1], mode)
    right, below = (x + 1).clamp(max=width - 1), (y + 1).clamp(max=height - 1)
    top_row, low_row = (image_index * height + y) * width, (image_index * height + below) * width
    cells = torch.stack([top_row + x, top_row + right, low_row + x, low_row + right])  # (4, N)
    shares = torch.stack(
        [(1 - y_share) * (1 - x_share), (1 - y_share) * x_share, y_share * (1 - x_share), y_share * x_share]
    )  # (4, N)
    rows = feature_map.permute(0, 2, 3, 1).reshape(batch * height * width, channels)  # (B, D, h, w) -> (B*h*w, D)
    corners = rows.index_select(0, cells.flatten()).reshape(4, -1, channels)  # (4*N, D) -> (4, N, D)
    features: Tensor = (corners.float() * shares.unsqueeze(-1)).sum(0).to(feature_map.dtype)
    return features


def _cell_and_share(position_px: Tensor, cells: int, side_px: int, mode: SamplingMode) -> tuple[Tensor, Tensor]:
    """Along one axis: the map pixel whose centre is just before each point (int64), and the next one's share (0..1)."""
    position = position_px.float()
    exact = mode == "exact"
    index = position * (cells / side_px) - 0.5 if exact else position * ((cells - 1) / side_px)
    index = index.clamp(0, cells - 1)
    before = index.floor()
    return before.long(), index - before
