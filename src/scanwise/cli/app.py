"""`scanwise app`: the local web workbench."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import start
from scanwise.core.errors import ConfigError


def app(
    workspace: Annotated[
        Path, typer.Option("--workspace", help="Folder that everything is kept in.")
    ] = Path(),
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8765,
    host: Annotated[
        str, typer.Option("--host", help="This machine only: there is no password.")
    ] = "127.0.0.1",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in your browser.")
    ] = True,
) -> None:
    """Open the workbench in a browser: data, check, train, results, use, without code."""
    _check_installed()
    from scanwise.app.guard import check_host
    from scanwise.app.workspace import Workspace

    address = check_host(host)
    opened = Workspace.open(workspace)
    # It keeps nothing there, but would look for the folder where it was started.
    os.environ["NICEGUI_STORAGE_PATH"] = str(opened.root / "workbench" / "nicegui")
    start(None)
    from scanwise.app.server import free_port, serve

    number = free_port(address, port)
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"workbench: http://{shown}:{number} (this computer only)")
    typer.echo(f"workspace: {opened.root}")
    typer.echo("Ctrl+C ends it; trainings go on and are found again.")
    serve(opened, address, number, open_browser=browser)


def _check_installed() -> None:
    """Look for the extra's packages without importing them.

    Raises:
        ConfigError: If one is missing.
    """
    missing = [name for name in ("nicegui", "psutil") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"scanwise app needs {missing[0]}, which is not installed: pip install 'scanwise[app]'."
        )
