"""`scanwise conformal RUN`: sets of classes that hold the true one as often as promised."""

from __future__ import annotations

from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start


def conformal(
    run: RunArgument,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Share of sets that may miss the true class.")
    ] = 0.1,
    class_conditional: Annotated[
        bool,
        typer.Option("--class-conditional", help="Keep the promise for each class by itself."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Calibrate prediction sets on validation; coverage on test, stored in the bundle."""
    from scanwise.metrics.conformal import SetRule

    rule = SetRule(alpha, class_conditional)
    start(None)
    from scanwise.pipeline.decision_text import sets_text
    from scanwise.pipeline.decisions import fit_sets

    sets = fit_sets(run, rule)
    show(sets if as_json else sets_text(sets), as_json)
