"""Memory for time: what a part of a network computes is forgotten and computed again in its backward pass."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(parts: Iterable[nn.Module]) -> None:
    """Let parts of a network keep their inputs alone for the backward pass; gradients are the same.

    Batch norms take the statistics of a batch once, not again when it is computed anew; chances such as dropped paths
    fall as they did. Copies of the network made afterwards would still run on its weights: make them first.
    """
    for part in parts:
        norms = [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        part.forward = _forgetting(part.forward, norms)  # type: ignore[method-assign, assignment]


def _forgetting(forward: Callable[..., Any], norms: list[nn.modules.batchnorm._BatchNorm]) -> Callable[..., Any]:
    contexts = partial(_contexts, norms)

    def run(*inputs: Any) -> Any:  # noqa: ANN401  whatever the part takes and gives
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    return run


def _contexts(
    norms: list[nn.modules.batchnorm._BatchNorm],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first computation, and around the second."""
    return nullcontext(), _statistics_stand(norms)


@contextmanager
def _statistics_stand(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Norms that are learning follow copies of their running statistics meanwhile: the batch has been counted already.

    Others in their place, not none: autograd keeps them, and wants to keep as many tensors as at first.
    """
    learning = [norm for norm in norms if norm.training and norm.track_running_stats]
    kept = [dict(norm._buffers) for norm in learning]
    for norm in learning:
        norm._buffers.update({name: None if own is None else own.clone() for name, own in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, own in zip(learning, kept, strict=True):
            norm._buffers.update(own)
