"""Every channel of a trained map to mean 0 and standard deviation 1 over nuclei, by the decoder's last norms.

Features of nuclei have much in common: a large mean, and a few wide channels. Cosines, by which nearest neighbours are
found, see little else. The last layers of the decoder are convolutions with a batch norm and nothing after it, so that
an affine map of each channel is new weights of these norms: inference stays as it is, and no label is needed.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from muse_core.models.backbone import MuseBackbone
from muse_core.models.feature_sampling import sample_at
from muse_core.roi_dataset.dataset import RoiDataset, RoiSample
from muse_core.slide.resample import scaled_image

MOST_ROIS = 256  # drawn from more; some ten thousand nuclei, a few seconds
_WINDOW_PX = 512  # of the network; the middle of larger ROIs
_LEAST_STD = 1e-6


@torch.no_grad()
def with_standard_map(backbone: MuseBackbone, dataset: RoiDataset, *, mpp: float, seed: int = 0) -> MuseBackbone:
    """A copy of a backbone whose map is standardised over the nuclei of a dataset.

    Args:
        backbone: with a decoder; one without comes back as a copy.
        dataset: ROIs; without nuclei the backbone comes back as a copy.
        mpp: µm/px at which the network sees them.
        seed: of the draw of ROIs.
    """
    copied = copy.deepcopy(backbone).eval()
    if copied.decoder is None:
        return copied
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:MOST_ROIS]
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for index in sorted(chosen.tolist()):  # sums alone are kept: a large ROI holds a thousand nuclei
        features = _at_nuclei(copied, dataset.read(index), mpp).double()  # (N, D)
        count, total, squares = count + len(features), total + features.sum(0), squares + features.square().sum(0)
    if count < 2:
        return copied
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp(min=_LEAST_STD**2).sqrt()
    first = 0
    for layer in copied.decoder.hyper_feats.conv_list:
        norm = layer.layer[1]  # type: ignore[index, union-attr]
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        channels = slice(first, first := first + norm.num_features)
        norm.weight.copy_(norm.weight / std[channels])
        norm.bias.copy_((norm.bias - mean[channels]) / std[channels])
    return copied


def _at_nuclei(backbone: MuseBackbone, sample: RoiSample, mpp: float) -> Tensor:
    """Features (N, D) float32 at the nuclei in the middle of a ROI."""
    scale = sample.mpp / mpp
    image = scaled_image(np.asarray(sample.image.decode()), scale)
    sides = [min(_WINDOW_PX, side) // backbone.side_multiple * backbone.side_multiple for side in image.shape[:2]]
    top, left = ((whole - side) // 2 for whole, side in zip(image.shape[:2], sides, strict=True))
    window = image[top : top + sides[0], left : left + sides[1]]
    xy = sample.nuclei[:, :2] * np.float32(scale) - np.array([left, top], np.float32)
    xy = xy[((xy >= 0) & (xy < (sides[1], sides[0]))).all(axis=1)]
    device = next(backbone.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(window)).to(device).permute(2, 0, 1)[None]  # (1, 3, h, w)
    rows = torch.zeros(len(xy), dtype=torch.int64, device=device)
    points = torch.from_numpy(np.ascontiguousarray(xy)).to(device)
    feature_map = backbone(backbone.standardised(pixels)).map
    return sample_at(feature_map, points, rows, side_px=(sides[1], sides[0]), mode=backbone.sampling).float()
