"""What is written down: one JSON line an event on stderr, and files only where asked for."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scanwise.core.errors import RunError
from scanwise.server.errors import broken, error_response
from scanwise.server.metrics import Meters

LOGGER = logging.getLogger("scanwise.server")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False)


def log_to_stderr() -> None:
    """Send the service's lines and uvicorn's to stderr, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("scanwise.server", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "scanwise.server" else logging.WARNING)


def tell(event: str, level: int = logging.INFO, **facts: Any) -> None:
    LOGGER.log(level, event, extra={"facts": facts})


class RequestLog:
    """Gives each request an id, logs and counts its end, and turns a failure into a 500.

    Logged are the route (never the path, which may hold a name), status, duration, and what the
    route put into `request.state.facts`.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        state = scope.setdefault("state", {})
        state["request_id"], state["facts"] = uuid.uuid4().hex, {}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", state["request_id"].encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            self._failed(state["request_id"])
            if not status:
                await error_response(broken())(scope, receive, send_with_id)
        finally:
            self._ended(scope, state, status, time.perf_counter() - started)

    @staticmethod
    def _failed(request_id: str) -> None:
        LOGGER.error("failure", exc_info=True, extra={"facts": {"request_id": request_id}})

    def _ended(self, scope: Scope, state: Mapping[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._meters.request(route, method, status, seconds)
        tell(
            "request",
            request_id=state["request_id"],
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            **state["facts"],
        )


class JsonLines:
    """A file of JSON lines that only ever grows by whole lines."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            RunError: If that can't be done.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")  # a line that a crash cut off
        except OSError as error:
            raise RunError(
                f"can't write to {path}: {error.strerror}; name another file."
            ) from error

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one line, or none.

        Raises:
            OSError: If it can't be written whole (a full disk).
        """
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError("the disk is full")
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def close(self) -> None:
        os.close(self._file)
