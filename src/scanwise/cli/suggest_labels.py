"""`scanwise suggest-labels`: which unlabelled images to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.compare import whole_number
from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.core.errors import PartialError


def suggest_labels(
    run: RunArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Unlabelled images.", show_default=False)
    ],
    number: Annotated[str, typer.Option("-n", metavar="INT", help="Images to choose.")] = "50",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for list and page [DIR-to-label].",
                     show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier list.")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Choose the images of DIR that are most worth labelling: unsure, and unlike each other."""
    how_many = whole_number("n", number)
    start(None)
    from scanwise.pipeline.suggest_labels import suggest_labels as choose

    found = choose(run, folder, how_many=how_many, output=output, force=force)
    show(found.to_json() if as_json else found.text(), as_json)
    if found.unreadable:
        raise PartialError(f"{len(found.unreadable)} of {found.found} files can't be read.")
