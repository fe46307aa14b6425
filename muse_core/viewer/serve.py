"""`muse view`'s server: loopback, a port and a token that open pages find again when it is started anew."""

import contextlib
import getpass
import json
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn

from muse_core.errors import ConfigError
from muse_core.machine.files import output_errors
from muse_core.viewer.app import make_app
from muse_core.viewer.job import TeachJob
from muse_core.viewer.run import ViewedRun

LOOPBACK = "127.0.0.1"
_ADDRESS_NAME = "address.json"  # in the lab's folder: the last port and token, for its owner's eyes alone
_TOKEN_BYTES = 24


@dataclass(frozen=True)
class Address:
    """Where the server is.

    Attributes:
        port: on this machine's loopback.
        token: the first of every path.
    """

    port: int
    token: str

    def url(self, slide_id: str | None = None) -> str:
        """What a browser opens: the cohort, or one slide."""
        place = f"#slide={quote(slide_id, safe='')}" if slide_id is not None else ""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/{place}"


def serve(
    run: ViewedRun,
    *,
    port: int = 0,
    on_ready: Callable[[Address], None] = lambda address: None,
) -> None:
    """Serve the viewer until the process is asked to end.

    Args:
        run: what is looked at.
        port: to listen on; 0 for the one of last time, or any that is free.
        on_ready: told the address once the server listens.

    Raises:
        ConfigError: the port is taken.
    """
    earlier = _earlier(run.lab)
    with contextlib.closing(_listening(port, earlier.port if earlier else 0)) as listener:
        token = earlier.token if earlier else secrets.token_urlsafe(_TOKEN_BYTES)
        address = Address(int(listener.getsockname()[1]), token)
        _keep(run.lab, address)
        job = TeachJob(run)
        app = make_app(run, job, token=token, who=_user())
        # The access log would hold the token.
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
        threading.Thread(target=_tell_when_ready, args=(server, lambda: on_ready(address)), daemon=True).start()
        server.run(sockets=[listener])


def open_browser(url: str) -> bool:
    """Open a page where this machine has a screen; whether it did."""
    has_screen = os.name == "nt" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_screen and webbrowser.open(url)


def _tell_when_ready(server: uvicorn.Server, tell: Callable[[], None]) -> None:
    waiting = threading.Event()
    while not server.started:
        if server.should_exit:
            return
        waiting.wait(0.02)
    tell()


def _listening(port: int, earlier: int) -> socket.socket:
    """A listening socket: on the port asked for, or on that of last time, or on any that is free."""
    for wanted in dict.fromkeys((port,) if port else (earlier, 0)):
        # asyncio sends small packets at once only on sockets that say TCP; others wait 40 ms for an acknowledgement.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, wanted))
        except (OSError, OverflowError):
            listener.close()
            continue
        listener.listen(128)
        return listener
    raise ConfigError(f"--port {port}: taken or not allowed; give another, or none for one that is free")


def _earlier(lab: Path) -> Address | None:
    """Port and token of last time, so that pages left open go on."""
    try:
        values = json.loads((lab / _ADDRESS_NAME).read_text(encoding="utf-8"))
        address = Address(int(values["port"]), str(values["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if len(address.token) >= _TOKEN_BYTES else None


def _keep(lab: Path, address: Address) -> None:
    path = lab / _ADDRESS_NAME
    with output_errors(path):
        lab.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"port": address.port, "token": address.token}, file)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return "somebody"
