"""`scanwise errors`."""

from __future__ import annotations

import typer

from scanwise.cli.shared import RunArgument, start


def errors(run: RunArgument) -> None:
    """Write the error analysis of RUN anew from its predictions: errors/index.html, errors.csv."""
    start(None)
    from scanwise.pipeline.error_pages import rewrite_errors

    files = rewrite_errors(run)
    typer.echo(f"{files.mistakes:,} of {files.n:,} {files.split} images wrong")
    typer.echo(str(files.html))
