"""The NDC network: a MUSE backbone, proposals on a grid, and a head for where and one for what.

    (B, 3, H, W) standardised  ->  map (B, D, H / 4, W / 4)  ->  at each proposal: offset (2), logits (classes + 1)

A proposal is a point of a regular grid; its features are read off the map bilinearly, H_reg says how far the nucleus
lies from it and H_type what it is, background included.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_core.models.backbone import MuseBackbone

SUBPIXELS = 4  # of a map pixel at stride 4 that are told apart at stride 2


class Proposals(NamedTuple):
    """What the network says at each point of the grid, rows of the grid one after another.

    Attributes:
        grid_xy: (P, 2) float32 the points themselves, continuous px of the image.
        xy: (B, P, 2) float32 where the nuclei would be.
        logits: (B, P, C + 1) float32, background last.
        dense: (B, C + 1, H / 2, W / 2) float32: logits of the classes and, last, of how near a nucleus' middle is.
    """

    grid_xy: Tensor
    xy: Tensor
    logits: Tensor
    dense: Tensor


class NdcNet(nn.Module):
    """Backbone with heads H_reg and H_type at proposals, and a dense one that says at every other pixel what is near.

    The dense head learns from every pixel where matched proposals teach one in fifty, so it is ahead of them for long;
    what it says where a proposal points is a second opinion on it. Nuclei may lie 6 px apart, so it works at stride 2.

    Args:
        backbone: gives a map (B, map_channels, H / 4, W / 4).
        n_classes: C, of nuclei.
        spacing_px: of the grid of proposals; the first lies half a spacing from the corner.
        hidden: width of the heads.
        kernel: 1 reads a proposal's own features; 3 those of its neighbours on the grid, too, so that proposals on the
            same nucleus can settle which of them it is.
        dropout: of the heads' hidden features.
        dense_hidden: width of the dense head.
    """

    def __init__(
        self,
        backbone: MuseBackbone,
        n_classes: int,
        *,
        spacing_px: int = 4,
        hidden: int = 128,
        kernel: int = 1,
        dropout: float = 0.1,
        dense_hidden: int = 64,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_classes, self.spacing_px, self.hidden, self.kernel = n_classes, spacing_px, hidden, kernel
        channels = backbone.map_channels
        self.h_reg = _head(channels, hidden, 2, kernel=kernel, dropout=dropout)
        self.h_type = _head(channels, hidden, n_classes + 1, kernel=kernel, dropout=dropout)
        self.h_dense = _dense_head(channels, dense_hidden, n_classes + 1)

    def forward(self, images: Tensor) -> Proposals:
        """(B, 3, H, W) standardised to proposals; sides as the backbone asks for, and multiples of the spacing."""
        return self.proposals(self.backbone(images).map, (images.shape[-1], images.shape[-2]))

    def proposals(self, feature_map: Tensor, size: tuple[int, int]) -> Proposals:
        """What the heads say of a map (B, D, H / 4, W / 4) of images of width and height `size`."""
        rows, columns = size[1] // self.spacing_px, size[0] // self.spacing_px
        aligned = self.backbone.sampling == "official"
        features = (_read_with_corners if aligned else _read_at_grid)(feature_map, (rows, columns))
        offsets = self.h_reg(features).float() * self.spacing_px
        logits = self.h_type(features).float()
        grid_xy = grid_points(rows, columns, self.spacing_px, device=offsets.device)
        return Proposals(
            grid_xy,
            grid_xy + offsets.flatten(2).transpose(1, 2),  # (B, 2, rows, columns) -> (B, P, 2)
            logits.flatten(2).transpose(1, 2),
            self.h_dense(feature_map).float(),
        )

    @torch.no_grad()
    def shift_classes(self, shift: Tensor) -> None:
        """Add something (C,) to the dense head's logits of the classes, for good."""
        last = self.h_dense[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.bias[:-SUBPIXELS] += shift.to(last.bias).repeat_interleave(SUBPIXELS)


def _read_at_grid(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """The map read bilinearly at the points of a regular grid: a resize without antialiasing.

    Points in the middle of four map pixels are read by their mean, which is the same and keeps channels last.
    """
    if feature_map.shape[-2:] == size:
        return feature_map
    if feature_map.shape[-2:] == (2 * size[0], 2 * size[1]):
        return functional.avg_pool2d(feature_map, 2)
    return functional.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


def _read_with_corners(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """The same of a map whose border pixels lie on the image's border: `official` of `sample_at`, at the grid."""
    y, x = ((torch.arange(count, device=feature_map.device) + 0.5) * (2 / count) - 1 for count in size)
    grid = torch.stack([x.expand(size[0], -1), y[:, None].expand(-1, size[1])], -1)  # (rows, columns, 2)
    with torch.autocast(feature_map.device.type, enabled=False):  # coordinates in bfloat16 would be whole pixels
        found = functional.grid_sample(
            feature_map.float(),
            grid.expand(len(feature_map), -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
    return found.to(feature_map.dtype)


class _Float32Conv(nn.Conv2d):
    """A convolution in float32 whatever the network runs in: bfloat16 has too few numbers to order nuclei by."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) of any type to (B, outputs, h, w) float32."""
        assert self.bias is not None
        with torch.autocast(x.device.type, enabled=False):
            return functional.conv2d(x.float(), self.weight.float(), self.bias.float())


def _head(inputs: int, hidden: int, outputs: int, *, kernel: int, dropout: float) -> nn.Sequential:
    """An MLP as convolutions over the grid: all proposals in one go."""
    first = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2, bias=False)
    last = nn.Conv2d(hidden, outputs, 1)
    nn.init.normal_(last.weight, std=0.01)  # hardly an offset and no preference to begin with
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), last)


def _dense_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Map at stride 4 to `outputs` maps at stride 2: each map pixel says all four of its quarters."""
    last = _Float32Conv(hidden, outputs * SUBPIXELS, 1)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[-SUBPIXELS:], -2.5)  # about the share of a picture that is nucleus: a calm beginning
    first = nn.Conv2d(inputs, hidden, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), last, nn.PixelShuffle(2))


def grid_points(rows: int, columns: int, spacing_px: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(rows * columns, 2) float32 x, y of the grid's points, row by row, px; each in the middle of its cell."""
    y, x = (torch.arange(length, device=device) * spacing_px + spacing_px / 2 for length in (rows, columns))
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1)
