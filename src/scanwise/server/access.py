"""Who may ask: the right host name, no foreign web page, the right token."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scanwise.server.errors import ApiError, error_response
from scanwise.server.settings import ServerSettings, is_loopback

OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # say nothing about models or images


class Access:
    """Refuses a request before anything of it is read.

    On a loopback address every web page that the user visits could post here, or read answers under
    a name of its own that it lets point to 127.0.0.1 (DNS rebinding). So the Host must be one of
    this server's names, and a page of another origin is refused.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        secret = settings.token
        self._token = None if secret is None else secret.get_secret_value().encode()
        # With a token and any address the names are the network's business, unless they are given.
        self._hosts = (
            _known_hosts(settings) if settings.allow_hosts or is_loopback(settings.host) else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await error_response(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return ApiError(
                403,
                "wrong_host",
                "the Host header is not a name of this server.",
                "Call it by its address, or start it with --allow-host NAME.",
            )
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return ApiError(
                403,
                "foreign_page",
                "a web page of another origin sent this.",
                "Send it from a program, or from a page of this server.",
            )
        if self._token is None or scope["path"] in OPEN_PATHS or self._knows(headers):
            return None
        return ApiError(
            401,
            "wrong_token",
            "the token is missing or wrong.",
            "Send the header  Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._token is not None
        # Bytes, since compare_digest takes no text beyond ASCII.
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return right and scheme.lower() == "bearer"


def _known_hosts(settings: ServerSettings) -> frozenset[str]:
    names: Iterable[str] = ("localhost", "127.0.0.1", "::1", settings.host, *settings.allow_hosts)
    return frozenset(name.strip("[]").lower() for name in names)


def _place(origin: str) -> str | None:
    """Host and port of an origin; None for what is no address, which no page of ours sends."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name(host: str) -> str:
    """'[::1]:8000' and '::1' are '::1', 'localhost:8000' is 'localhost'."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
