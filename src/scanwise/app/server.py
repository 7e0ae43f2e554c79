"""The workbench's server: pages, pictures and files, on 127.0.0.1 only."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, RedirectResponse
from nicegui import app, run, ui

from scanwise.app.guard import FILE_POLICY, Guard
from scanwise.app.theme import stylesheet
from scanwise.app.thumbnails import SIZES_PX
from scanwise.app.widgets import Bench
from scanwise.app.workspace import Workspace
from scanwise.core.errors import ConfigError, DataError

FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
    'rx="8" fill="#0a5f8f"/><circle cx="14" cy="14" r="6.5" fill="none" stroke="#fff" '
    'stroke-width="3"/><path d="M19 19l6 6" stroke="#fff" stroke-width="3.4" '
    'stroke-linecap="round"/></svg>'
)
# Their modules are imported when they are first asked for: torch alone takes seconds.
PATIENCE_S = 60  # for a page whose modules are being imported
PAGES = {
    "/data": "Data",
    "/check": "Check",
    "/train": "Train",
    "/results": "Results",
    "/use": "Use",
    "/runs": "Runs",
    "/history": "History",
    "/system": "System",
}


def free_port(host: str, port: int) -> int:
    """The port, or for 0 one that is free.

    Raises:
        ConfigError: If it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port {port} can't be used ({error}); choose another, or --port 0 for a free "
                "one."
            ) from error
        return int(probe.getsockname()[1])


def serve(workspace: Workspace, host: str, port: int, *, open_browser: bool) -> None:
    """Run until it is interrupted; trainings go on without it."""
    os.chdir(workspace.root)  # names are as commands in the workspace have them
    bench = Bench(workspace)
    app.add_middleware(Guard, port=port)
    _routes(bench, app)
    for path, title in PAGES.items():
        ui.page(path, title=title, response_timeout=PATIENCE_S)(_page(path, bench))
    app.on_startup(lambda: threading.Thread(target=_warm_up, daemon=True).start())
    ui.add_head_html('<link rel="stylesheet" href="/workbench.css">', shared=True)
    if open_browser:
        url = f"http://{'[::1]' if ':' in host else host}:{port}/data"
        app.on_startup(lambda: threading.Thread(target=webbrowser.open, args=(url,)).start())
    ui.run(
        host=host,
        port=port,
        title="scanwise workbench",
        favicon=FAVICON,
        dark=None,
        language="en-US",
        show=False,
        reload=False,
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=10,
        show_welcome_message=False,
    )


def _page(path: str, bench: Bench) -> Callable[[], Any]:
    async def page() -> None:
        module = await run.io_bound(_module, path)
        if module is not None:  # None: the server is stopping
            await module.build(bench)

    return page


def _module(path: str) -> Any:
    return import_module(f"scanwise.app.pages.{path.strip('/')}")


def _warm_up() -> None:
    """Import the pages while nobody waits for them."""
    for path in PAGES:
        _module(path)


def _routes(bench: Bench, app: FastAPI) -> None:
    style = stylesheet()

    async def root() -> RedirectResponse:
        return RedirectResponse("/data")

    async def css() -> Response:
        return Response(style, media_type="text/css", headers={"cache-control": "no-cache"})

    async def thumb(key: str, px: int = 200) -> Response:
        try:
            made = await run.io_bound(bench.thumbnails.png, key, px if px in SIZES_PX else 200)
        except DataError as error:
            raise HTTPException(422, str(error)) from error
        if made is None:
            raise HTTPException(404, "no such picture")
        return Response(
            made, media_type="image/png", headers={"cache-control": "private, max-age=3600"}
        )

    async def files(path: str) -> Response:
        place = bench.workspace.served(path)
        if place is None:
            raise HTTPException(404, "no such file")
        headers = {"content-security-policy": FILE_POLICY, "cache-control": "no-cache"}
        return FileResponse(place, headers=headers)

    async def download(name: str) -> Response:
        place = bench.workspace.served(f"predictions/{name}/predictions.csv")
        if place is None or name in (".", ".."):
            raise HTTPException(404, "no such answers")
        return FileResponse(place, media_type="text/csv", filename=f"{name}.csv")

    app.get("/")(root)
    app.get("/workbench.css")(css)
    app.get("/thumb/{key}")(thumb)
    app.get("/files/{path:path}")(files)
    app.get("/download/{name}")(download)
