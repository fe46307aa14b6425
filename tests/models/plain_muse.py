"""MUSE's forward pass written out over a state dict, as plainly as the released models work: an independent check.

Attention materialised, maps resized by fixed factors with aligned corners, one image-sized grid_sample an image. Norms
use their running statistics.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

State = dict[str, Tensor]


def plain_vit(state: State, images: Tensor, *, heads: int) -> tuple[list[Tensor], Tensor]:
    """Images (B, 3, S, S), with as many tokens as there are positions, to four taps (B, D, S / 16, S / 16) and CLS."""
    s = {name.removeprefix("encoder.encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    x = F.conv2d(images, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=16)
    side, width = x.shape[-1], x.shape[1]
    x = torch.cat([s["cls_token"].repeat(len(x), 1, 1), x.flatten(2).transpose(1, 2)], 1) + s["pos_embed"]
    taps = []
    for block in range(12):
        p = f"blocks.{block}."
        y = _layer_norm(x, s, p + "norm1")
        qkv = F.linear(y, s[p + "attn.qkv.weight"], s[p + "attn.qkv.bias"])
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, 2))
        attention = torch.softmax(q @ k.transpose(2, 3) * (width // heads) ** -0.5, -1)
        y = (attention @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(y, s[p + "attn.proj.weight"], s[p + "attn.proj.bias"])
        y = _layer_norm(x, s, p + "norm2")
        y = F.gelu(F.linear(y, s[p + "mlp.fc1.weight"], s[p + "mlp.fc1.bias"]))
        x = x + F.linear(y, s[p + "mlp.fc2.weight"], s[p + "mlp.fc2.bias"])
        if block in (2, 5, 8, 11):
            taps.append(_layer_norm(x, s, "norm"))
    maps = [tap[:, 1:].transpose(1, 2).reshape(len(x), width, side, side) for tap in taps]
    return maps, taps[-1][:, 0]


def plain_decoder(state: State, levels: list[Tensor]) -> Tensor:
    """Four levels of an encoder to the map at stride 4; those of a ViT are projected and resized first."""
    s = {name.removeprefix("decoder."): tensor for name, tensor in state.items() if name.startswith("decoder.")}
    if "dim_map_layers.0.weight" in s:
        levels = [F.conv2d(level, s[f"dim_map_layers.{i}.weight"]) for i, level in enumerate(levels)]
        levels = [_times(levels[0], 4), _times(levels[1], 2), levels[2], _times(levels[3], 0.5)]
    e1, e2, e3, e4 = levels
    d3 = _fused(s, "decoder3", e4, e3)
    d2 = _fused(s, "decoder2", d3, e2)
    d1 = _fused(s, "decoder1", d2, e1)
    hyper = [_conv_norm(s, f"hyper_feats.conv_list.{i}", level) for i, level in enumerate((d1, d2, d3, e4))]
    return torch.cat([_times(level, 2**i) for i, level in enumerate(hyper)], 1)


def plain_look_up(feature_map: Tensor, xy: Tensor, side_px: int) -> Tensor:
    """Features (N, D) of one image's map (D, h, w) at xy (N, 2), as the released evaluation reads them."""
    grid = (2 * xy / side_px - 1)[None, None]
    return F.grid_sample(feature_map[None], grid, mode="bilinear", align_corners=True)[0, :, 0].T


def _layer_norm(x: Tensor, s: State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], s[name + ".weight"], s[name + ".bias"], eps=1e-6)


def _conv_norm(s: State, name: str, x: Tensor) -> Tensor:
    weight = s[name + ".layer.0.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = s[name + ".layer.1.running_mean"], s[name + ".layer.1.running_var"]
    gain, bias = s[name + ".layer.1.weight"], s[name + ".layer.1.bias"]
    return F.batch_norm(x, mean, var, gain, bias, training=False)


def _fused(s: State, name: str, coarse: Tensor, skip: Tensor) -> Tensor:
    coarse = F.interpolate(coarse, size=skip.shape[-2:], mode="bilinear", align_corners=True)
    x = F.relu(_conv_norm(s, f"{name}.first_block", torch.cat([coarse, skip], 1)))
    y = F.relu(_conv_norm(s, f"{name}.last_block.conv1", x))
    return F.relu(x + _conv_norm(s, f"{name}.last_block.conv2", y))


def _times(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True) if factor != 1 else x
