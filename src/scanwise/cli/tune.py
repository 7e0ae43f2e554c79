"""`scanwise tune`: search settings on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scanwise.cli.compare import whole_number
from scanwise.cli.options import with_settings
from scanwise.cli.shared import DataArgument, JsonOption, gather_settings, show, start


@with_settings(
    leave_out=(
        "output", "no_test", "report", "time_limit", "devices", "nodes", "track", "explain",
    )
)  # fmt: skip
def tune(
    settings: dict[str, Any],
    data: DataArgument,
    trials: Annotated[
        str,
        typer.Option(
            "--trials", metavar="INT", help="In all; the first one has the default settings."
        ),
    ] = "30",
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit", metavar="TIME", show_default=False,
            help="Time of the whole search, such as 1h: no trial is begun that would not end.",
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search", show_default=False,
            help="What to search, such as lr=1e-5..1e-2:log,batch_size=16|32|64 [what suits the "
            "network].",
        ),
    ] = None,
    cv: Annotated[
        str | None,
        typer.Option(
            "--cv", metavar="K", show_default=False,
            help="Judge each trial by K folds of train and validation together.",
        ),
    ] = None,
    nested: Annotated[
        str | None,
        typer.Option(
            "--nested", metavar="K", show_default=False,
            help="Besides, search anew in K outer folds: what tuning is honestly worth.",
        ),
    ] = None,
    pruner: Annotated[
        str, typer.Option("--pruner", metavar="median|hyperband|none", help="Ends hopeless trials.")
    ] = "median",
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", show_default=False,
            help="Folder of the search; the same command goes on with it "
            "[runs/DATA-MODEL-tune-NNN].",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Which settings are best? Search on validation (or inner folds); test is never opened."""
    if time_limit is not None:
        settings = settings | {"time_limit": time_limit}
    resolved = gather_settings(data, settings, config)
    in_all = whole_number("trials", trials)
    inner = None if cv is None else whole_number("cv", cv)
    outer = None if nested is None else whole_number("nested", nested)
    start(resolved.threads)
    from scanwise.studies.tune import tune as find
    from scanwise.studies.tune_page import tune_summary, tuned_json
    from scanwise.studies.tuned import Options

    how = Options(in_all, search, inner, outer, pruner)  # type: ignore[arg-type]
    found = find(resolved, output, how)
    show(tuned_json(found) if as_json else tune_summary(found), as_json)
