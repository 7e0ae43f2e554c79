"""`scanwise summary`: one results folder of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, show, start


def summary(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or folders that hold runs.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder for the summary.")
    ] = Path("training_results"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing summary folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put many runs side by side: one folder of plots, metrics, models, and a page of findings."""
    start(None)
    from scanwise.studies.training_summary import summary_overview, write_summary

    found = write_summary(runs, output, force=force)
    show(
        {"output": str(output)} | found.to_json() if as_json else summary_overview(found, output),
        as_json,
    )
