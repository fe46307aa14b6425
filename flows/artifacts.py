"""What a flow found, as Prefect shows it: tables and texts named after the flow and its deployment.

Showing is best effort: where the server does not answer, a line in the log says what is not shown, and work goes on.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.runtime import deployment
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

_SHOWN_DIGITS = 4
_UPDATE_EVERY_S = 5.0  # each update is a row in the server's database and an event


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Go on where the block cannot reach Prefect's server; the log says that `what` is not shown."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):  # not a minute for each thing to show
            yield
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
        get_run_logger().warning("%s cannot be shown now (%s: %s)", what, type(error).__name__, error)


def artifact_key(flow_key: str) -> str:
    """The start of a flow's artifact keys: its name, and its deployment's where it runs as one.

    Two deployments of a flow then have artifacts of their own: `infer-slides-inbox-summary`.
    """
    name = None
    with best_effort("the deployment's name"):
        name = deployment.name
    return "-".join([flow_key, *re.findall(r"[a-z0-9]+", (name or "").lower())])


def publish(rows: Sequence[dict[str, Any]], text: str, *, key: str, of: str, description: str) -> None:
    """Show a table and a summary in the Prefect UI: `<key>-<of>` and `<key>-summary`.

    Args:
        rows: of the table, one dict a row; numbers are shown with four digits.
        text: Markdown.
        key: of the flow's artifacts, from `artifact_key`.
        of: what the rows are, such as slides.
        description: of the table.
    """
    table = [{name: _shown(value) for name, value in row.items()} for row in rows]
    with best_effort(f"the table of {of}"):
        create_table_artifact(table=table, key=f"{key}-{of}", description=description)
    publish_text(text, key=key)


def publish_text(text: str, *, key: str) -> None:
    """Show a summary, Markdown, in the Prefect UI: `<key>-summary`."""
    with best_effort("the summary"):
        create_markdown_artifact(markdown=text, key=f"{key}-summary")


def publish_link(url: str, text: str, *, key: str, of: str) -> None:
    """Show a link in the Prefect UI: `<key>-<of>`."""
    with best_effort(f"the link to the {of}"):
        create_link_artifact(url, link_text=text, key=f"{key}-{of}")


class Progress:
    """A progress bar in the Prefect UI, `<key>-progress`, moved every few seconds at most."""

    def __init__(self, key: str, *, done: int, of: int, unit: str) -> None:
        self._of, self._unit = of, unit
        self._id: UUID | None = None
        self._shown_at = monotonic()
        with best_effort("the progress"):
            # From a synchronous flow the answer is the id itself; the signature also tells of coroutines.
            created = create_progress_artifact(self._percent(done), f"{key}-progress", self._words(done))
            self._id = cast(UUID, created)

    def update(self, done: int, last: str) -> None:
        """So many are done, `last` the last of them."""
        if self._id is None or (done < self._of and monotonic() - self._shown_at < _UPDATE_EVERY_S):
            return
        self._shown_at = monotonic()
        with best_effort("the progress"):
            update_progress_artifact(
                self._id, progress=self._percent(done), description=f"{self._words(done)}; last: {last}"
            )

    def _percent(self, done: int) -> float:
        return 100.0 * done / self._of if self._of else 100.0

    def _words(self, done: int) -> str:
        return f"{done} of {self._of} {self._unit}"


def _shown(value: object) -> object:
    return float(f"{value:.{_SHOWN_DIGITS}g}") if isinstance(value, float) else value
