"""AdamW as DINO sets it up: what decays, what is clipped, what stands still at first."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from muse_core.pretrain.settings import OptimiserSettings
from muse_core.training import schedules


class StudentOptimiser:
    """AdamW over a network's parameters with the schedules of a run.

    Args:
        network: parameters that don't require a gradient are left out.
        settings: rates and shares.
        batch_size: ROIs a step, over all processes.
    """

    def __init__(self, network: nn.Module, settings: OptimiserSettings, *, batch_size: int) -> None:
        self.settings, self._batch_size = settings, batch_size
        self.names: Mapping[nn.Parameter, str] = {p: name for name, p in network.named_parameters() if p.requires_grad}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter, name in self.names.items():
            # Biases, norms and other vectors don't decay.
            key = (name.startswith("backbone.encoder."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
        self.adamw = torch.optim.AdamW(
            [
                {"params": group, "share": settings.encoder_rate if encoder else 1.0, "decays": decays}
                for (encoder, decays), group in groups.items()
            ],
            lr=0.0,
            weight_decay=0.0,
            fused=all(parameter.is_cuda for parameter in self.names),  # one kernel for all tensors
        )

    def learning_rate(self, progress: float) -> float:
        """Of all but the encoder, at 0..1 of the run."""
        peak = schedules.scaled_rate(self.settings.learning_rate, self._batch_size)
        final = min(self.settings.final_learning_rate, peak)
        return schedules.learning_rate(progress, peak=peak, final=final, warmup=self.settings.warmup)

    def weight_decay(self, progress: float) -> float:
        """Of what decays, at 0..1 of the run."""
        return schedules.cosine(self.settings.weight_decay, self.settings.final_weight_decay, progress)

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together, before clipping: a scalar, not finite where one of them is not."""
        gradients = [parameter.grad for parameter in self.names if parameter.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    def discard(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def step(self, progress: float) -> None:
        """Use the gradients up: clipped, the prototypes' withheld at first."""
        clip_each(list(self.names), self.settings.clip)
        if progress < self.settings.freeze_last_layer:
            for parameter, name in self.names.items():
                if "last_layer" in name:
                    parameter.grad = None
        for group in self.adamw.param_groups:
            group["lr"] = group["share"] * self.learning_rate(progress)
            group["weight_decay"] = self.weight_decay(progress) if group["decays"] else 0.0
        self.adamw.step()
        self.discard()


@torch.no_grad()
def clip_each(parameters: list[nn.Parameter], limit: float) -> None:
    """Shrink each tensor's gradient to a norm of at most `limit`; 0 for no limit.

    DINO clips so rather than all tensors together: one wild layer then holds no other back.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not limit or not gradients:
        return
    shrink = [torch.clamp(limit / (norm + 1e-6), max=1.0) for norm in torch._foreach_norm(gradients)]
    torch._foreach_mul_(gradients, shrink)
