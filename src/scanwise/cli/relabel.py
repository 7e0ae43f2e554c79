"""`scanwise relabel`: suspected labels, decisions about them, and the journal of decisions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanwise.cli.compare import whole_number
from scanwise.cli.options import with_settings
from scanwise.cli.shared import JsonOption, gather_settings, show, start
from scanwise.core.config import TrainConfig

if TYPE_CHECKING:
    from scanwise.pipeline.relabel import Conflict

relabel_app = typer.Typer(
    help="Wrong labels: suggest which to look at, apply decisions, show the journal.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_FINDING = {"size", "fit", "group", "group_regex", "page", "project"}
_NOT_HERE = ("output", "no_test", "report", "time_limit", "devices", "nodes", "track", "explain")


@relabel_app.command()
@with_settings(leave_out=_NOT_HERE)
def suggest(
    settings: dict[str, Any],
    data: Annotated[
        str,
        typer.Argument(
            help="Data, as for train, or the folder of a `train --cv` study.", show_default=False
        ),
    ],
    folds: Annotated[
        str, typer.Option("--folds", metavar="INT", help="Of a cross-validation.")
    ] = "5",
    number: Annotated[str, typer.Option("-n", metavar="INT", help="Suspects to list.")] = "50",
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Labels folder [NAME-labels].", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the labels that are probably wrong; nothing is changed.

    A quick classifier answers (seconds), with a pretrained --model on its features too; any other
    --model is cross-validated.
    """
    config = gather_settings(data, settings, None)
    how_many, parts = whole_number("n", number), whole_number("folds", folds)
    start(config.threads)
    from scanwise.studies.suspects import suggest as find

    found = find(config, folds=parts, how_many=how_many, output=output, force=config.force)
    show(found.to_json() if as_json else found.text(), as_json)


@relabel_app.command()
@with_settings(leave_out=tuple(name for name in TrainConfig.model_fields if name not in _FINDING))
def apply(
    settings: dict[str, Any],
    decisions: Annotated[
        Path,
        typer.Argument(
            help="CSV of path,label[,reason], or suspects.csv with its decisions filled in.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option("--data", help="As for train.", show_default=False)],
    by: Annotated[
        str | None, typer.Option("--by", help="Who decided [you].", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Labels folder [NAME-labels].", show_default=False),
    ] = None,
    overrule: Annotated[
        bool, typer.Option("--overrule", help="Replace earlier decisions of the journal.")
    ] = False,
) -> None:
    """Write a new version of the labels and the journal; images and old labels stay."""
    config = gather_settings(data, settings, None)
    from scanwise.pipeline.relabel import apply_decisions
    from scanwise.pipeline.train import load_data

    applied = apply_decisions(
        load_data(config),
        config.data,
        decisions,
        by=by,
        output=output,
        overrule=overrule,
        ask=_ask if sys.stdin.isatty() else None,
    )
    typer.echo(applied.text())


@relabel_app.command()
def journal(
    folder: Annotated[Path, typer.Argument(help="Labels folder.", show_default=False)],
) -> None:
    """Show who decided what, when and why."""
    from scanwise.pipeline.label_journal import journal_text

    typer.echo(journal_text(folder))


def _ask(conflict: Conflict) -> str | None:
    """Ask again; None where the answer is none of those that were given."""
    choices = [*conflict.answers]
    if conflict.earlier is not None:
        choices.append(conflict.earlier.new)
    said = typer.prompt(f"{conflict}\nWhich is right ({', '.join(choices)})? Empty: none", "")
    return str(said) if said in choices else None
