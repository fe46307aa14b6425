"""How long to wait before asking a server again: exponential backoff with jitter, or what the server asked for."""

import logging
import random
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import time
from typing import TypeVar

import httpx
from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from muse_core.config import Settings

_log = logging.getLogger(__name__)
_BUSY = {408, 425, 429}  # asked too early or too often; the same request may go well later

Answer = TypeVar("Answer")


class RetrySettings(Settings):
    """How patiently a server is asked again."""

    max_attempts: int = Field(default=6, ge=1, description="attempts in a row that bring nothing before giving up")
    first_wait_s: float = Field(
        default=1.0, ge=0, description="longest pause after the first failure; doubles each time"
    )
    longest_wait_s: float = Field(default=60.0, ge=0)
    longest_retry_after_s: float = Field(
        default=300.0, ge=0, description="a server's own Retry-After counts up to this"
    )


class TransientError(Exception):
    """A failure that may pass; `attempt` is how many in a row it makes (0: as many as were made in all)."""

    def __init__(self, message: str, *, reason: str = "download_failed", wait_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.wait_s = wait_s
        self.attempt = 0


def with_retries(task: Callable[[], Answer], settings: RetrySettings) -> Answer:
    """The task's answer, asked for again while it raises TransientError.

    Raises:
        TransientError: the last one, when all attempts are used up.
    """

    def attempt(state: RetryCallState) -> int:
        return _error(state).attempt or state.attempt_number

    def wait_s(state: RetryCallState) -> float:
        told = _error(state).wait_s
        if told is not None:
            return min(told, settings.longest_retry_after_s)
        ceiling = min(settings.longest_wait_s, settings.first_wait_s * 2.0 ** min(attempt(state) - 1, 30))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311  # spreads clients apart, keeps no secret

    retrying = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=lambda state: attempt(state) >= settings.max_attempts,
        wait=wait_s,
        before_sleep=lambda state: _log.info("%s; next attempt in %.1f s", _error(state), state.upcoming_sleep),
        reraise=True,
    )
    return retrying(task)


def raise_if_busy(response: httpx.Response) -> None:
    """Raise TransientError for the statuses that may pass (408, 425, 429, 5xx), with the server's Retry-After."""
    if response.status_code in _BUSY or response.status_code >= 500:
        raise TransientError(f"the server answered {response.status_code}", wait_s=_retry_after_s(response))


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date. Source: RFC 9110, section 10.2.3."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time()) if text else None
    except ValueError:
        return None


def _error(state: RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientError)  # nothing else is retried
    return error
