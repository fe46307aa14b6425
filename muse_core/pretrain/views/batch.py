"""The views of several ROIs as one batch: pixels, coordinates, and which nucleus is in which view."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.pretrain.views.augment import augmented
from muse_core.pretrain.views.cut import cut_view
from muse_core.pretrain.views.placement import RoiFrame, coordinates, place_views, validity
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.roi_dataset.dataset import RoiSample


class Overlap(NamedTuple):
    """How many nuclei the views of a ROI share, over the pairs of views that NuLo compares; None without such pairs.

    Attributes:
        matched_global: mean number of nuclei in both of two global views.
        empty_global: share of such pairs without a common nucleus.
        matched_local: the same for a global and a local view.
        empty_local: the same.
    """

    matched_global: float | None
    empty_global: float | None
    matched_local: float | None
    empty_local: float | None


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Views of B ROIs. V = G + L views a ROI, the global ones first; N nuclei, of all ROIs, each in at least one view.

    Attributes:
        global_images: (G, B, 3, S, S) uint8 RGB.
        local_images: (L, B, 3, s, s) uint8 RGB.
        xy: (V, N, 2) float32, continuous px of each view; outside it where the nucleus is not in the view.
        valid: (V, N) bool, whether the nucleus lies in the view, clear of its border.
        image_index: (N,) int64 in 0..B - 1, ascending: the ROI of each nucleus.
        roi_ids: the ROIs, B of them.
        slide_ids: their slides.
        left_out: ROIs that could not be read and that others stand in for, with the reason.
    """

    global_images: Tensor
    local_images: Tensor
    xy: Tensor
    valid: Tensor
    image_index: Tensor
    roi_ids: list[str]
    slide_ids: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.roi_ids)

    def pin_memory(self) -> "ViewBatch":
        """The same batch in page-locked memory; PyTorch's loader calls it."""
        return self._with_tensors(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> "ViewBatch":
        """The batch on a device; from pinned memory the copy does not wait."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def overlap(self) -> Overlap:
        """How many nuclei the views share: what a run logs to see that NuLo has work."""
        n_global = len(self.global_images)
        of_globals: list[Tensor] = []
        of_locals: list[Tensor] = []
        for first in range(n_global):
            for second in range(first + 1, len(self.valid)):
                shared = self.image_index[self.valid[first] & self.valid[second]]
                counts = torch.bincount(shared, minlength=len(self))  # (B,)
                (of_globals if second < n_global else of_locals).append(counts)
        return Overlap(*_mean_and_empty(of_globals), *_mean_and_empty(of_locals))

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "ViewBatch":
        return ViewBatch(
            change(self.global_images),
            change(self.local_images),
            change(self.xy),
            change(self.valid),
            change(self.image_index),
            self.roi_ids,
            self.slide_ids,
            self.left_out,
        )


def view_batch(samples: Iterable[RoiSample], seeds: Sequence[Sequence[int]], settings: ViewSettings) -> ViewBatch:
    """Cut the views of some ROIs.

    Args:
        samples: the ROIs, each large enough for a view at the finest mpp; taken one at a time, so that no two are in
            memory where they come from a generator.
        seeds: for each ROI, numbers >= 0 that its views depend on, and on nothing else.
        settings: how views are cut and changed.

    Raises:
        DatasetError: a ROI's image is damaged.
    """
    batch = len(seeds)
    globals_ = np.empty((settings.global_views, batch, 3, settings.global_px, settings.global_px), np.uint8)
    locals_ = np.empty((settings.local_views, batch, 3, settings.local_px, settings.local_px), np.uint8)
    roi_ids, slide_ids, xy, valid = [], [], [], []
    for row, (sample, seed) in enumerate(zip(samples, seeds, strict=True)):
        in_view = _cut_into([*globals_[:, row], *locals_[:, row]], sample, seed, settings)
        roi_ids.append(sample.roi_id)
        slide_ids.append(sample.slide_id)
        xy.append(in_view.xy)
        valid.append(in_view.valid)
    return ViewBatch(
        global_images=torch.from_numpy(globals_),
        local_images=torch.from_numpy(locals_),
        xy=torch.from_numpy(np.concatenate(xy, axis=1)),
        valid=torch.from_numpy(np.concatenate(valid, axis=1)),
        image_index=torch.from_numpy(np.repeat(np.arange(batch), [part.shape[1] for part in xy])),
        roi_ids=roi_ids,
        slide_ids=slide_ids,
    )


def chosen_nuclei(valid: NDArray[np.bool_], settings: ViewSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers, ascending, of the nuclei to keep: those in a view, at most `max_nuclei`.

    Where there are more, those come first that a global view shares with another view, for only they are compared; a
    random choice among equals.

    Args:
        valid: (V, N) bool, global views first.
        settings: the number of global views and the cap.
        rng: the only source of chance.
    """
    seen = valid.sum(axis=0)
    kept = np.flatnonzero(seen)
    if len(kept) <= settings.max_nuclei:
        return kept
    compared = valid[: settings.global_views].any(axis=0) & (seen > 1)
    by_use = np.lexsort((rng.random(len(kept)), ~compared[kept]))
    return np.sort(kept[by_use[: settings.max_nuclei]])


class _Nuclei(NamedTuple):
    """Of one ROI: xy (V, n, 2) float32 in view px, valid (V, n) bool."""

    xy: NDArray[np.float32]
    valid: NDArray[np.bool_]


def _cut_into(
    planes: Sequence[NDArray[np.uint8]], sample: RoiSample, seed: Sequence[int], settings: ViewSettings
) -> _Nuclei:
    """Fill each view's (3, side, side) planes, and say where its nuclei are."""
    # Two streams: other colours leave the views where they are.
    place_rng, pixel_rng = (np.random.default_rng([*seed, stream]) for stream in (0, 1))
    xy_roi = sample.nuclei[:, :2]
    places = place_views(RoiFrame(*sample.image.size, sample.mpp), xy_roi, settings, place_rng)
    for view, (target, place) in enumerate(zip(planes, places, strict=True)):
        picture = augmented(cut_view(sample.image, place), settings.photometrics(view), pixel_rng)
        cv2.split(picture, list(target))  # (H, W, 3) -> (3, H, W), in place
    xy_view = coordinates(places, xy_roi)
    valid = validity(places, xy_view, settings.border_px)
    kept = chosen_nuclei(valid, settings, place_rng)
    return _Nuclei(xy_view[:, kept], valid[:, kept])


def _mean_and_empty(counts: list[Tensor]) -> tuple[float | None, float | None]:
    if not counts:
        return None, None
    matched = torch.stack(counts)
    return float(matched.double().mean()), float((matched == 0).double().mean())
