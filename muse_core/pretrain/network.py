"""Student and teacher: backbone with the heads of both losses, and the student's forward pass up to the losses."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from muse_core.models.backbone import MuseBackbone, sample_at
from muse_core.models.heads import ProjectionHead
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.training.losses.distillation import Pairing, distillation_loss
from muse_core.training.losses.nucleus import NucleusRows


class Bottlenecks(NamedTuple):
    """What the heads make of a batch before their prototypes; None without the head.

    Attributes:
        image: (n * B, E), rows in order (view, ROI).
        nucleus: (R, E), rows as asked for.
    """

    image: Tensor | None
    nucleus: Tensor | None


class Targets(NamedTuple):
    """What the teacher says of a batch, and of what.

    Attributes:
        image: (G * B, K) float32 probabilities, or None.
        nucleus: (T, K) float32 probabilities, or None.
        image_pairing: pairs of views.
        rows: nuclei, and pairs of them.
    """

    image: Tensor | None
    nucleus: Tensor | None
    image_pairing: Pairing
    rows: NucleusRows


class MuseNetwork(nn.Module):
    """A backbone with a projection head a loss.

    Args:
        backbone: encoder and decoder.
        image_head: on the image feature, for L_image; None without it.
        nucleus_head: on the map at nuclei, for L_nu; None without it.
    """

    def __init__(
        self, backbone: MuseBackbone, image_head: ProjectionHead | None, nucleus_head: ProjectionHead | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_head = image_head
        self.nucleus_head = nucleus_head

    def forward(self, batch: ViewBatch, view: Tensor, nucleus: Tensor, *, n_views: int, n_decoded: int) -> Bottlenecks:
        """Look at the first views of a batch, and at nuclei in them.

        The decoder, half of the work, runs only on views that nuclei are read from.

        Args:
            batch: views of B ROIs.
            view: (R,) int64 ascending, below `n_decoded`.
            nucleus: (R,) int64, which nucleus in that view.
            n_views: views looked at: the global ones, or all.
            n_decoded: views whose nuclei may be asked for: none, the global ones, or all.
        """
        images, nuclei = [], []
        first = 0
        for pixels in (batch.global_images, batch.local_images):
            if first >= n_views or not len(pixels):
                break
            rgb = self.backbone.standardised(pixels.flatten(0, 1))  # (n, B, 3, S, S) -> (n*B, 3, S, S)
            if first < n_decoded:
                feature_map, image = self.backbone(rgb)
                here = (view >= first) & (view < first + len(pixels))
                seen, which = view[here], nucleus[here]
                picture = (seen - first) * len(batch) + batch.image_index[which]
                side = (pixels.shape[-1], pixels.shape[-2])
                mode = self.backbone.sampling
                nuclei.append(sample_at(feature_map, batch.xy[seen, which], picture, side_px=side, mode=mode))
            else:
                image = self.backbone.encode(rgb)
            images.append(image)
            first += len(pixels)
        return Bottlenecks(
            None if self.image_head is None else self.image_head.bottleneck(torch.cat(images)),
            None if self.nucleus_head is None else self.nucleus_head.bottleneck(torch.cat(nuclei)),
        )


class Student(nn.Module):
    """The student up to its losses: what DistributedDataParallel wraps, so that all its parameters are used inside.

    Args:
        network: backbone and heads.
        n_views: views the student looks at.
        n_decoded: views of which it looks at nuclei.
        temperature: of the student.
        chunk_rows: see `distillation_loss`.
    """

    def __init__(
        self, network: MuseNetwork, *, n_views: int, n_decoded: int, temperature: float, chunk_rows: int
    ) -> None:
        super().__init__()
        self.network = network
        self.n_views, self.n_decoded = n_views, n_decoded
        self.temperature, self.chunk_rows = temperature, chunk_rows

    def forward(self, batch: ViewBatch, targets: Targets) -> tuple[Tensor, Tensor]:
        """L_image and L_nu of a batch, scalars; 0 for a loss whose head is left out."""
        rows = targets.rows
        found = self.network(
            batch, rows.student_view, rows.student_nucleus, n_views=self.n_views, n_decoded=self.n_decoded
        )
        image = self._loss(found.image, self.network.image_head, targets.image, targets.image_pairing)
        nucleus = self._loss(found.nucleus, self.network.nucleus_head, targets.nucleus, rows.pairing)
        return image, nucleus

    def _loss(
        self, bottleneck: Tensor | None, head: ProjectionHead | None, target: Tensor | None, pairing: Pairing
    ) -> Tensor:
        if bottleneck is None or head is None or target is None:
            return pairing.weight.new_zeros(())
        return distillation_loss(
            bottleneck, head.last_layer, target, pairing, temperature=self.temperature, chunk_rows=self.chunk_rows
        )
