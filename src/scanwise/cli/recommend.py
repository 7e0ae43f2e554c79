"""`scanwise recommend RUN`: what to try next, and with --try whether it helped."""

from __future__ import annotations

from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start


def recommend(
    run: RunArgument,
    try_first: Annotated[
        int,
        typer.Option(
            "--try",
            metavar="N",
            min=0,
            max=5,
            help="Train the first N that change settings, and compare on validation.",
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """What to change next, with evidence and command; --try N tries it on validation."""
    start(None)
    from scanwise.pipeline.tries import advise, try_out

    found = try_out(run, try_first) if try_first else advise(run)
    show(found.to_json() if as_json else found.text(), as_json)
