"""Waiting between attempts: growing, jittered, bounded, and as the server says."""

import time

import httpx
import pytest

from muse_core.cohort.acquire.retry import RetrySettings, TransientError, raise_if_busy, with_retries


def run(settings: RetrySettings, monkeypatch, *, told_s: float | None = None) -> list[float]:
    """The waits in seconds of a task that never succeeds."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def task() -> None:
        raise TransientError("no", wait_s=told_s)

    with pytest.raises(TransientError, match="no"):
        with_retries(task, settings)
    return waits


def test_waits_double_up_to_a_limit_with_jitter(monkeypatch):
    settings = RetrySettings(max_attempts=6, first_wait_s=1, longest_wait_s=5)
    waits = run(settings, monkeypatch)
    for wait, ceiling in zip(waits, (1, 2, 4, 5, 5), strict=True):
        assert ceiling / 2 <= wait <= ceiling
    assert run(settings, monkeypatch) != waits


def test_the_server_is_obeyed_up_to_a_limit(monkeypatch):
    settings = RetrySettings(max_attempts=2, longest_retry_after_s=7)
    assert run(settings, monkeypatch, told_s=3) == [3]
    assert run(settings, monkeypatch, told_s=3000) == [7]


def test_other_errors_are_not_retried():
    tries = []

    def task() -> None:
        tries.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        with_retries(task, RetrySettings())
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("12", 12, 12),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 1e9, 1e10),
        ("soon", None, None),
        ("-3", None, None),
    ],
)
def test_retry_after(text, low, high):
    with pytest.raises(TransientError, match="answered 503") as caught:
        raise_if_busy(httpx.Response(503, headers={"Retry-After": text}))
    wait_s = caught.value.wait_s
    assert wait_s is None if low is None else low <= wait_s <= high


@pytest.mark.parametrize("status", [200, 206, 301, 400, 401, 403, 404, 410, 416])
def test_statuses_that_do_not_pass_by_waiting(status):
    raise_if_busy(httpx.Response(status))
