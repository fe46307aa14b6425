"""A flow's end, told to a webhook: `MUSE_WEBHOOK` in the worker's environment; best effort, like all that shows."""

import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run

VARIABLE = "MUSE_WEBHOOK"
_PATIENCE_S = 10.0
_SHOWN_FAILURES = 5


def tell_webhook(ended: object) -> None:
    """Post what a flow's body returned, its counts or a state, as JSON; nothing where no webhook is set.

    The object has `text` (one line, what Slack, Mattermost and Teams show), `flow`, `run`, `deployment`, `state`,
    `message`, and the counts that there are. The address is a secret: it is in no log.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return
    try:
        told = json.dumps(_told(ended), default=str).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(address, told, headers)  # noqa: S310  (the address is the operator's own)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310
            pass
    except (OSError, ValueError, HTTPException) as error:  # the last: an address or an answer that is none
        said = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        get_run_logger().warning("%s: the webhook was not told (%s)", VARIABLE, said)


def _told(ended: object) -> dict[str, Any]:
    state, message = "Completed", ""
    if isinstance(ended, State):
        state, message = str(ended.name or ended.type.value), str(ended.message or "")
    counts = dict(ended) if isinstance(ended, dict) else {}
    counts["failures"] = list(counts.get("failures") or ())[:_SHOWN_FAILURES]
    shown = ", ".join(f"{key} {value}" for key, value in counts.items() if isinstance(value, int) and value)
    name = "/".join(filter(None, (flow_run.flow_name, deployment.name)))
    return {
        "text": f"{name} {flow_run.name}: {state}. {message or shown}".strip(),
        "flow": flow_run.flow_name,
        "run": flow_run.name,
        "deployment": deployment.name,
        "state": state,
        "message": message,
        **counts,
    }
