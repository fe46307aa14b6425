"""A small GDC on loopback that can misbehave: /files (paged), /data/<id> (Range, ETag) and faults served in order.

    with GdcServer({"<uuid>": b"..."}) as server:
        server.faults["<uuid>"] = [cut(1000), status(500)]
        httpx.get(f"{server.url}/data/<uuid>")

Each request for a file takes the next fault from its list; with the list used up, the server behaves.
"""

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass
class Answer:
    """What a handler is about to send; faults change it."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut_after: int | None = None
    seconds_a_byte: float = 0.0


Fault = Callable[[Answer, bytes], Answer]  # the right answer and the whole file to a wrong answer


def cut(after: int) -> Fault:
    """Break the connection after so many bytes of the body."""
    return lambda answer, _: _with(answer, cut_after=after)


def status(code: int, **headers: str) -> Fault:
    """Answer with a status; headers as keywords, '_' for '-'."""
    return lambda *_: Answer(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"no")


def wrong_bytes() -> Fault:
    """The right number of bytes, one of them wrong."""
    return lambda answer, _: _with(answer, body=answer.body[:-1] + bytes([answer.body[-1] ^ 1]))


def short_length(by: int) -> Fault:
    """A Content-Length, and a body, that lack the end of the file."""
    return lambda answer, _: _with(answer, body=answer.body[:-by])


def long_length(by: int) -> Fault:
    """A Content-Length beyond what is sent."""

    def apply(answer: Answer, _: bytes) -> Answer:
        length = str(len(answer.body) + by)
        return _with(answer, headers=answer.headers | {"Content-Length": length}, cut_after=len(answer.body))

    return apply


def drip(seconds_a_byte: float) -> Fault:
    """Send byte by byte, slowly."""
    return lambda answer, _: _with(answer, seconds_a_byte=seconds_a_byte)


def silence(seconds: float) -> Fault:
    """Say nothing for a while before answering."""

    def apply(answer: Answer, _: bytes) -> Answer:
        time.sleep(seconds)
        return answer

    return apply


def ignores_range() -> Fault:
    """Answer 200 with the whole file, whatever was asked for."""
    return lambda answer, whole: _with(
        answer, status=200, headers=_without(answer.headers, "Content-Range"), body=whole
    )


def wrong_start() -> Fault:
    """Go on elsewhere than asked: one byte late."""

    def apply(answer: Answer, whole: bytes) -> Answer:
        start = len(whole) - len(answer.body) + 1
        span = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"}
        return _with(answer, headers=answer.headers | span, body=whole[start:])

    return apply


def error_page() -> Fault:
    """Answer 200 with a page for people."""
    return lambda *_: Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>down for maintenance</html>")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    if_range: str | None
    accept_encoding: str | None
    time: float


@dataclass
class GdcServer:
    """Serves on 127.0.0.1 at a free port while the context lasts."""

    files: dict[str, bytes] = field(default_factory=dict)
    hits: list[dict[str, Any]] = field(default_factory=list)  # of /files
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))  # by file id; "files" for /files
    with_etag: bool = True
    with_length: bool = True
    on_request: Callable[[str], None] = lambda path: None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> "GdcServer":
        self._mutex = Lock()
        handler = type("Handler", (_Handler,), {"gdc": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]

    def next_fault(self, name: str) -> Fault | None:
        with self._mutex:
            return self.faults[name].pop(0) if self.faults[name] else None

    def search(self, query: dict[str, Any]) -> dict[str, Any]:
        """GDC's answer to a query: the hits that pass the filters, sorted, one page of them."""
        found = [hit for hit in self.hits if all(_passes(hit, one["content"]) for one in query["filters"]["content"])]
        found.sort(key=lambda hit: hit["file_id"])
        page = found[query["from"] : query["from"] + query["size"]]
        pagination = {"count": len(page), "total": len(found), "size": query["size"], "from": query["from"]}
        return {"data": {"hits": page, "pagination": pagination}, "warnings": {}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gdc: GdcServer

    def handle(self) -> None:
        with suppress(OSError):  # clients that had enough go without a word; http.server would print it
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._note()
        file_id = self.path.removeprefix("/data/").partition("?")[0]
        if self.path.startswith("/moved/"):
            self._send(Answer(302, {"Location": "/data/" + self.path.removeprefix("/moved/")}, b""))
            return
        whole = self.gdc.files.get(file_id)
        if whole is None:
            self._send(Answer(404, {"Content-Type": "application/json"}, b'{"message": "file not found"}'))
            return
        answer = self._file(whole)
        fault = self.gdc.next_fault(file_id)
        self._send(fault(answer, whole) if fault else answer)

    def do_POST(self) -> None:
        self._note()
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = Answer(200, {"Content-Type": "application/json"}, json.dumps(self.gdc.search(query)).encode())
        fault = self.gdc.next_fault("files")
        self._send(fault(answer, answer.body) if fault else answer)

    def log_message(self, *_: object) -> None:
        pass

    def _note(self) -> None:
        named = (self.headers.get(name) for name in ("Range", "If-Range", "Accept-Encoding"))
        self.gdc.requests.append(Request(self.command, self.path, *named, time.monotonic()))
        self.gdc.on_request(self.path)

    def _file(self, whole: bytes) -> Answer:
        etag = f'"{hashlib.sha1(whole).hexdigest()}"'
        headers = {"Content-Type": "application/octet-stream"} | ({"ETag": etag} if self.gdc.with_etag else {})
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked or self.headers.get("If-Range", etag) != etag:
            return Answer(200, headers, whole)
        start = int(asked[1])
        if start >= len(whole):
            return Answer(416, {"Content-Range": f"bytes */{len(whole)}"}, b"")
        return Answer(206, headers | {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"}, whole[start:])

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body))} if self.gdc.with_length else {"Connection": "close"}
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        body = answer.body if answer.cut_after is None else answer.body[: answer.cut_after]
        self._write(body, answer.seconds_a_byte)
        if answer.cut_after is not None or not self.gdc.with_length:
            self.close_connection = True

    def _write(self, body: bytes, seconds_a_byte: float) -> None:
        step = 1 if seconds_a_byte else max(1, len(body))
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            time.sleep(seconds_a_byte)


def _passes(hit: dict[str, Any], condition: dict[str, Any]) -> bool:
    """Whether a hit fits one `in` filter; fields a hit does not have are taken to fit."""
    if condition["field"] == "cases.project.project_id":
        return hit["cases"][0]["project"]["project_id"] in condition["value"]
    if condition["field"] == "cases.project.program.name":
        return hit["cases"][0]["project"]["project_id"].split("-")[0] in condition["value"]
    name = condition["field"].removeprefix("files.")
    return hit.get(name, condition["value"][0]) in condition["value"]


def _with(answer: Answer, **changes: Any) -> Answer:
    return Answer(**{**answer.__dict__, **changes})


def _without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}
