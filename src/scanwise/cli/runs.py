"""`scanwise runs`: what was trained here, beside each other, and away with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show
from scanwise.core.errors import ConfigError

runs_app = typer.Typer(
    help="Past runs: list them, show one, compare some, remove some.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@runs_app.command(name="list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Searched to any depth.")] = Path("runs"),
    sort: Annotated[
        str, typer.Option("--sort", help="A validation metric, best first, or date.")
    ] = "accuracy",
    data: Annotated[
        str | None, typer.Option("--data", help="Only runs on this data set.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List every run below FOLDER, best validation score first."""
    from scanwise.studies.run_table import list_runs

    found = list_runs(folder, sort=sort, data=data)
    show(found.to_json() if as_json else found.text(), as_json)


@runs_app.command(name="show")
def show_(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show one run: what was said, chosen, measured, and where it lies."""
    from scanwise.studies.run_details import show_run

    details = show_run(run)
    show(details.to_json() if as_json else details.text(), as_json)


@runs_app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Two run folders or more.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare runs with the first: settings that differ, scores, paired differences."""
    from scanwise.studies.run_comparison import compare_runs

    found = compare_runs(runs)
    show(found.to_json() if as_json else found.text(), as_json)


@runs_app.command()
def rm(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove run folders, after asking; anything else is refused."""
    from scanwise.pipeline.run_removal import check_removable, remove_run
    from scanwise.pipeline.runs import size_text

    folders = check_removable(runs)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("there is no terminal to ask on; add --yes to remove the runs.")
        listed = "\n".join(f"  {folder}" for folder in folders)
        if not typer.confirm(f"{listed}\nRemove {_runs(len(folders))} for good?"):
            typer.echo("nothing was removed.")
            raise typer.Exit(1)
    freed = 0
    for folder in folders:
        files, size = remove_run(folder)
        freed += size
        typer.echo(f"removed {folder}: {files} files, {size_text(size)}")
    if len(folders) > 1:
        typer.echo(f"{_runs(len(folders))} removed, {size_text(freed)} freed")


def _runs(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"
