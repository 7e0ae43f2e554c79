"""`scanwise benchmark`: our runs beside published results."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scanwise.cli.options import with_settings
from scanwise.cli.shared import JsonOption, gather_settings, show, start
from scanwise.core.errors import ConfigError

# An official split is compared as it is, and every run goes to a folder of its own in runs/.
_LEFT_OUT = (
    "output", "force", "splits", "val_fraction", "test_fraction", "group", "group_regex",
    "no_test", "page", "project", "fit", "devices", "nodes",
)  # fmt: skip


@with_settings(leave_out=_LEFT_OUT)
def benchmark(
    settings: dict[str, Any],
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders (or folders that hold runs), medmnist:NAME[@SIZE] or 'medmnist:*' "
            "to train on first, or an official .npz file.",
            show_default=False,
        ),
    ],
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="INT", help="Trainings of each data set.")
    ] = "1",
    as_json: JsonOption = False,
) -> None:
    """Put runs on official MedMNIST splits beside published results."""
    if not seeds.isdecimal() or not 1 <= int(seeds) <= 100:
        raise ConfigError(f"seeds={seeds!r} must be a whole number from 1 to 100, such as 3.")
    config = gather_settings(None, {"data": "medmnist:*"} | settings, None)
    start(config.threads)
    from scanwise.studies.leaderboard import board_text, leaderboard, sort_out, train_all
    from scanwise.studies.run_set import read_runs, runs_among

    asked = sort_out(runs, config.size)
    if asked.runs:
        runs_among(asked.runs)
    trained = train_all(asked.data, config, int(seeds))
    found = leaderboard(read_runs([*asked.runs, *trained]), asked.missing)
    show(found.to_json() if as_json else board_text(found), as_json)
    if found.refused:
        raise typer.Exit(1)
