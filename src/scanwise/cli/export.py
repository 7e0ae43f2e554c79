"""`scanwise export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, show, start
from scanwise.core.errors import PartialError


def export(
    model: Annotated[Path, typer.Argument(help="Run or bundle folder.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", metavar="onnx|torch", help="onnx runs anywhere.")
    ] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an int8 copy, ranges from training images.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="New folder [RUN/export/FORMAT].", show_default=False),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Largest loss of accuracy or AUROC by int8.")
    ] = 0.01,
    check_on: Annotated[
        list[Path] | None,
        typer.Option(
            "--check-on",
            help="Images to compare on instead of the run's validation split; may be repeated.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write MODEL as one file for other programs, and prove that it answers alike."""
    start(None)
    from scanwise.pipeline.export import export_model

    found = export_model(
        model, format=format, int8=int8, output=output, max_drop=max_drop,
        check_on=check_on or (), force=force,
    )  # fmt: skip
    show(found.to_json() if as_json else found.text(), as_json)
    if found.failure:
        raise PartialError(f"FAILED, do not use it: {found.failure}.")
