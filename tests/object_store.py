"""An S3-compatible server of a process of its own on loopback, and a proxy before it that misbehaves."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that forgets everything at its end."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", "from moto.server import main; main()", "-H", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


class Trouble:
    """What the proxy does to requests, in this order of chance.

    Attributes:
        refuse: share answered 503 SlowDown.
        fail: share answered 500.
        cut: share whose connection is closed before the answer; half of them after the server has done what was asked.
    """

    def __init__(self, *, refuse: float = 0.0, fail: float = 0.0, cut: float = 0.0, seed: int = 0) -> None:
        self.refuse, self.fail, self.cut = refuse, fail, cut
        self.count = 0
        self._random = random.Random(seed)

    def kind(self) -> str:
        at = self._random.random()
        for kind, share in (("refuse", self.refuse), ("fail", self.fail), ("cut", self.cut)):
            if at < share:
                self.count += 1
                return kind
            at -= share
        return ""

    def half(self) -> bool:
        return self._random.random() < 0.5


@contextmanager
def troubled(server: str, trouble: Trouble) -> Iterator[str]:
    """The address of a proxy before a server."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            kind = trouble.kind()
            if kind in ("refuse", "fail"):
                name, status = ("SlowDown", 503) if kind == "refuse" else ("InternalError", 500)
                self._answer(status, {}, f"<Error><Code>{name}</Code><Message>busy</Message></Error>".encode())
                return
            if kind == "cut" and trouble.half():
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            with httpx.Client(timeout=60) as client:
                found = client.request(self.command, server + self.path, headers=headers, content=body)
            if kind == "cut":
                self.close_connection = True
                return
            length = found.headers.get("content-length") if self.command == "HEAD" else None
            self._answer(found.status_code, dict(found.headers), found.content, length)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
