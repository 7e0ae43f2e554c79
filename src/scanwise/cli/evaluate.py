"""`scanwise evaluate RUN`: score it again, or look closer at the predictions that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.cli.thresholds import ClassOption
from scanwise.core.errors import ConfigError


def evaluate(
    run: RunArgument,
    prevalence: Annotated[
        float | None,
        typer.Option(
            "--prevalence",
            help="PPV and NPV where this share has the class, such as 0.02; test stays closed.",
            show_default=False,
        ),
    ] = None,
    class_name: ClassOption = None,
    slices: Annotated[
        str | None,
        typer.Option(
            "--slices",
            metavar="COLUMN,…|all",
            help="Scores by these metadata columns, from predictions.csv; test stays closed.",
            show_default=False,
        ),
    ] = None,
    meta: Annotated[
        Path | None,
        typer.Option(
            "--meta",
            help="With --slices: CSV of columns, joined by path, or split and index.",
            show_default=False,
        ),
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            "--aggregate",
            metavar="mean|max|vote",
            help="One verdict a group (patient, slide), from predictions.csv; test stays closed.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run's splits (again), a look at test in the ledger; its options open nothing."""
    if prevalence is None and class_name is not None:
        raise ConfigError("--class goes with --prevalence, such as --prevalence 0.02.")
    if meta is not None and slices is None:
        raise ConfigError("--meta goes with --slices; name the columns, or --slices all.")
    if prevalence is not None and (slices is not None or aggregate is not None):
        raise ConfigError("give --prevalence, or --slices and --aggregate, not both.")
    start(None)
    if prevalence is not None:
        from scanwise.pipeline.decision_text import prevalence_text
        from scanwise.pipeline.decisions import judge_at_prevalence

        entry = judge_at_prevalence(run, class_name, prevalence)
        show(entry if as_json else prevalence_text(entry), as_json)
        return
    if slices is not None or aggregate is not None:
        from scanwise.pipeline.parts import look_closer

        names = () if slices in (None, "all") else _names(str(slices))
        found = look_closer(run, names if slices is not None else None, meta, aggregate)
        show(found.to_json() if as_json else found.text(), as_json)
        return
    from scanwise.pipeline.summary import run_summary, run_summary_json
    from scanwise.pipeline.train import reevaluate

    done = reevaluate(run)
    show(run_summary_json(done) if as_json else run_summary(done), as_json)


def _names(text: str) -> tuple[str, ...]:
    """Column names between commas.

    Raises:
        ConfigError: If there is none.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--slices names no column; such as --slices sex,site, or --slices all.")
    return names
