"""Run the service until it is told to stop; then finish what it accepted."""

from __future__ import annotations

import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from scanwise.core.errors import RunError
from scanwise.server.logs import log_to_stderr, tell
from scanwise.server.settings import ServerSettings

MAX_HEADER_BYTES = 64_000
BACKLOG = 2048


def run_app(app: FastAPI, settings: ServerSettings) -> None:
    """Listen and serve; returns after SIGTERM (exit code 0) or Ctrl-C.

    Raises:
        RunError: If the address can't be listened on.
    """
    log_to_stderr()
    listening = listen(settings)
    # uvicorn raises the signal again when all is done; the process then ends as one that is well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = uvicorn.Server(server_config(app, settings))
    host, port = listening.getsockname()[:2]
    models = {each.model.name: each.model.sha256 for each in app.state.service.models()}
    tell("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", models=models)
    try:
        server.run(sockets=[listening])
    finally:
        tell("stopped")


def server_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """uvicorn's settings: no log of its own, no header that names it, no trust in proxies."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
    )


def listen(settings: ServerSettings) -> socket.socket:
    """Bind before anything is said, so that a taken port is one message."""
    host = settings.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # who connects from now on waits, and is not refused
    except OSError as error:
        raise RunError(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror}; choose another "
            "--host or --port (0 takes a free one)."
        ) from error
    return listening
