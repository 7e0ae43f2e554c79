"""Who may talk to the server: pages of this server in a browser of this machine, nobody else.

The server listens on 127.0.0.1 only. Still a web page from elsewhere could ask the browser to send
requests there (cross-site request forgery), or point a name of its own at 127.0.0.1 (DNS
rebinding). So the Host header must be one of this server's, and a request that a browser marks as
coming from another site or origin is refused, WebSockets included. All pages carry a policy that
keeps the browser from loading anything from elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from scanwise.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws://{host}; frame-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
# Reports are pages of their own: no script runs in them.
FILE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src data:; "
    "frame-ancestors 'self'; sandbox allow-popups allow-top-navigation-by-user-activation "
    "allow-same-origin"
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_host(host: str) -> str:
    """The address to listen on.

    Raises:
        ConfigError: If it is not this machine's own.
    """
    if host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        return "127.0.0.1" if host == "localhost" else host.strip("[]")
    raise ConfigError(
        f"--host {host}: the workbench shows files of this machine and asks for no password, so it "
        "listens on 127.0.0.1 only. From another computer, use an SSH tunnel: ssh -L "
        "8765:127.0.0.1:8765 THIS_MACHINE."
    )


class Guard:
    """ASGI middleware; see the module's words.

    Args:
        app: What is guarded.
        port: The port that the server listens on.
    """

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in LOOPBACK}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        problem = self.problem(headers)
        if problem:
            await _refuse(scope, send, problem)
            return
        policy = POLICY.format(host=headers["host"])

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, policy)
            await send(message)

        await self._app(scope, receive, sending)

    def problem(self, headers: MutableMapping[str, str]) -> str:
        """Why a request is refused, '' if it is not."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return f"This server answers to {min(self._hosts)} only, not to '{host}'."
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return f"Requests from pages of {origin} are refused."
        site = headers.get("sec-fetch-site", "none")
        opened = headers.get("sec-fetch-dest") == "document"
        if site not in ("none", "same-origin") and not opened:
            return "Requests from other sites are refused."
        return ""


def _add_headers(message: MutableMapping[str, Any], policy: str) -> None:
    headers = message.setdefault("headers", [])
    names = {key.lower() for key, _ in headers}
    for key, value in (
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ):
        if key not in names:
            headers.append((key, value))


async def _refuse(scope: Scope, send: Send, problem: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": problem.encode()})
