"""`scanwise reproduce RUN`: train it again, and compare every number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.core.errors import ConfigError


def reproduce(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="New folder for the second run [RUN-reproduced].", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Where the same data lie now, if they were moved.", show_default=False
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Largest difference that counts as a match.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Train RUN again from its folder, and compare all numbers: match or mismatch."""
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance={tolerance} must be at least 0 (bit for bit) and below 1.")
    from scanwise.pipeline.same_numbers import threads_of

    start(threads_of(run))
    from scanwise.pipeline.reproduce import reproduce_run

    found = reproduce_run(run, output, data=data, tolerance=tolerance)
    show(found.to_json() if as_json else found.text(), as_json)
    if not found.matches:
        raise typer.Exit(1)
