"""`scanwise monitor RUN LOG…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start


def monitor(
    run: RunArgument,
    logs: Annotated[
        list[Path], typer.Argument(help="Files of `scanwise serve --log`.", show_default=False)
    ],
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Take answers of other versions of the bundle too."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Do the answers of a service still look like RUN's on validation? Tests of drift."""
    start(None)
    from scanwise.pipeline.monitor import monitor as compare

    found = compare(run, logs, any_version=any_version)
    show(found.to_json() if as_json else found.text(), as_json)
