"""Keeps what is not finite out of a run: such a step leaves everything as it was, and many in a row end the run."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from muse_core.errors import TrainingError

logger = logging.getLogger(__name__)

_SHOWN_SLIDES = 8


class StepGuard:
    """Counts the steps that were skipped and undoes what they left.

    A forward pass moves the running statistics of batch norms before anything is known of the gradients, so they are
    kept aside first.

    Args:
        networks: whose buffers a forward pass moves.
        most_in_a_row: skipped steps in a row that are borne; one more ends the run.
    """

    def __init__(self, networks: Iterable[nn.Module], *, most_in_a_row: int) -> None:
        self.skipped = 0
        self._in_a_row, self._most = 0, most_in_a_row
        buffers = [buffer for network in networks for buffer in network.buffers()]
        self._moving = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the buffers as they are before a step."""
        self._kept = [buffer.clone() for buffer in self._moving]

    def passed(self) -> None:
        """The step's numbers are finite."""
        self._in_a_row = 0

    @torch.no_grad()
    def skip(self, step: int, found: str, slides: Iterable[str]) -> None:
        """Put the buffers back and count the step.

        Args:
            step: its number.
            found: what was not finite, in words.
            slides: that the step has seen.

        Raises:
            TrainingError: too many steps in a row, reason loss_not_finite.
        """
        for buffer, before in zip(self._moving, self._kept, strict=True):
            buffer.copy_(before)
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        names = sorted(set(slides))
        shown = ", ".join(names[:_SHOWN_SLIDES]) + (" ..." if len(names) > _SHOWN_SLIDES else "")
        if self._in_a_row > self._most:
            raise TrainingError(
                f"step {step}: {found}, with slides {shown}; {self._in_a_row} steps in a row were skipped for that;"
                " look at these slides, lower optimiser.learning_rate, or set precision=fp32; the last checkpoint"
                " stands",
                reason="loss_not_finite",
            )
        logger.warning("step %d is skipped: %s, with slides %s", step, found, shown)
