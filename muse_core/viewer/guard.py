"""Who may ask: the token in the address, the names a local server goes by, and what a page of ours may load."""

import hmac
import re

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL_HOST = re.compile(r"^(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?$", re.IGNORECASE)
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; "
        "frame-ancestors http://127.0.0.1:* http://localhost:*"  # notebooks show the page in a frame
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address holds the token
    "cross-origin-resource-policy": "same-origin",
}
_OTHER_ADDRESS = "This address lacks the right token: open the one that muse view printed.\n"


class Guard:
    """Lets through what comes to this machine's own name, from its own page, with the token as the first of the path.

    Other sites cannot read answers (their origin differs), cannot send marks (Origin), and cannot make their own name
    stand for this server (Host).
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        prefix = "/" + self._token.decode()
        inner = {**scope, "path": scope["path"][len(prefix) :] or "/", "root_path": scope.get("root_path", "")}
        await self._app(inner, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not _LOCAL_HOST.match(host):
            return PlainTextResponse("This server answers to 127.0.0.1 and localhost alone.\n", 421)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return PlainTextResponse("Requests of other sites are refused.\n", 403)
        given = scope["path"].split("/")[1].encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._token):
            return PlainTextResponse(_OTHER_ADDRESS, 403)
        if scope["path"].count("/") == 1:  # the page's own addresses are relative
            return RedirectResponse(f"/{self._token.decode()}/")
        return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            mine = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *mine]}
        await send(message)

    return sending
