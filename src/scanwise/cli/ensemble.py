"""`scanwise ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, show, start


def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or folders that hold some.", show_default=False),
    ],
    method: Annotated[
        str,
        typer.Option("--method", help="soft: equal weights; greedy: chosen on validation."),
    ] = "soft",
    folds: Annotated[
        bool,
        typer.Option("--folds", help="The runs are folds of a cross-validation: other splits."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="New folder [runs/DATA-ensemble-NNN].", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing --output folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Average trained runs into one bundle, and score it beside the best of them."""
    start(None)
    from scanwise.pipeline.summary import run_summary_json
    from scanwise.studies.ensemble import ensemble as average
    from scanwise.studies.ensemble import ensemble_summary

    run = average(runs, method=method, output=output, folds=folds, force=force)
    show(run_summary_json(run) if as_json else ensemble_summary(run), as_json)
