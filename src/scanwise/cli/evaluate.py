"""`scanwise evaluate RUN`: score it again; with --prevalence, predictive values in a clinic."""

from __future__ import annotations

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
    as_json: JsonOption = False,
) -> None:
    """Score a run's splits (again), a look at test in the ledger; --prevalence opens nothing."""
    if prevalence is None and class_name is not None:
        raise ConfigError("--class goes with --prevalence, such as --prevalence 0.02.")
    start(None)
    if prevalence is not None:
        from scanwise.pipeline.decision_text import prevalence_text
        from scanwise.pipeline.decisions import judge_at_prevalence

        entry = judge_at_prevalence(run, class_name, prevalence)
        show(entry if as_json else prevalence_text(entry), as_json)
        return
    from scanwise.pipeline.summary import run_summary, run_summary_json
    from scanwise.pipeline.train import reevaluate

    done = reevaluate(run)
    show(run_summary_json(done) if as_json else run_summary(done), as_json)
