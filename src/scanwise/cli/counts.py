"""`scanwise counts`: how many images of each class are in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.core.errors import PartialError


def counts(
    run: RunArgument,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="DIR|FILES", help="Images, or folders.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Count images by class: as predicted, and corrected for the model's known mistakes."""
    start(None)
    from scanwise.pipeline.folder_counts import count_images

    found = count_images(run, images)
    show(found.to_json() if as_json else found.text(), as_json)
    if found.unreadable:
        total = found.n + len(found.unreadable)
        raise PartialError(f"{len(found.unreadable)} of {total} files can't be read.")
