"""The end of a flow, told to a real HTTP server; one that refuses costs a line that does not say its address."""

import json
import logging
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar

import pytest
from prefect.logging import disable_run_logger
from prefect.states import Failed

from flows.ending import ends_in_one_line
from flows.webhook import VARIABLE
from muse_core.errors import ConfigError


@pytest.fixture
def hook(monkeypatch):
    """What was posted to the webhook, and how it answers."""

    class Hook(BaseHTTPRequestHandler):
        posted: ClassVar[list[dict]] = []
        answer = 200

        def do_POST(self) -> None:
            self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(self.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{server.server_address[1]}/services/s3cret")
    with disable_run_logger():
        yield Hook
    server.shutdown()
    server.server_close()
    thread.join()


def test_ends_are_told(hook):
    assert ends_in_one_line(lambda: {"slides_done": 3, "failures": []})() == {"slides_done": 3, "failures": []}
    ends_in_one_line(lambda: Failed(message="2 slides failed"))()

    def mistaken() -> None:
        raise ConfigError("--mpp 0: too small")

    ends_in_one_line(mistaken)()
    assert [(one["state"], one["message"]) for one in hook.posted] == [
        ("Completed", ""),
        ("Failed", "2 slides failed"),
        ("config_invalid", "--mpp 0: too small"),
    ]
    assert hook.posted[0]["slides_done"] == 3
    assert hook.posted[0]["text"].endswith("Completed. slides_done 3")


def test_a_hook_that_refuses_costs_nothing(hook, monkeypatch, caplog):
    hook.answer = 500
    monkeypatch.setattr("flows.webhook.get_run_logger", lambda: logging.getLogger("test"))
    assert ends_in_one_line(lambda: {"slides_done": 1})() == {"slides_done": 1}
    assert "the webhook was not told (status 500)" in caplog.text
    for address in ("http://127.0.0.1:9/s3cret", "http://127.0.0.1:9/a s3cret", "http://a:s3cret/", "s3cret"):
        monkeypatch.setenv(VARIABLE, address)
        assert ends_in_one_line(lambda: {"slides_done": 1})() == {"slides_done": 1}
    assert "s3cret" not in caplog.text
