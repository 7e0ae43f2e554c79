"""`scanwise ood`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start


def ood(
    run: RunArgument,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            help="Foreign images: a folder, or an .npz with key 'images'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How well does RUN recognise foreign images? Noise and blank images are always tried."""
    start(None)
    from scanwise.pipeline.foreign import foreign_summary, measure_foreign

    found = measure_foreign(run, against or ())
    show(found if as_json else foreign_summary(found), as_json)
