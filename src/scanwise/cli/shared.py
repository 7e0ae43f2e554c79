"""What every command does alike: gather the settings, tune the process, print the result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scanwise.core.config import TrainConfig, env_settings, make_config, read_yaml_settings
from scanwise.core.errors import ConfigError

DataArgument = Annotated[
    str,
    typer.Argument(
        help="Class folder, .csv manifest, .npz, medmnist:NAME[@SIZE] or demo:NAME.",
        show_default=False,
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print results as JSON to stdout.")]


def gather_settings(data: str | None, flags: dict[str, Any], config: Path | None) -> TrainConfig:
    """Settings by precedence: flag > SCANWISE_* > YAML > (preset > default, in the plan)."""
    values = read_yaml_settings(config) if config is not None else {}
    values |= env_settings(os.environ)
    values |= flags
    if data is not None:
        values["data"] = data
    if "data" not in values:
        raise ConfigError(
            "name the data: a class folder, .csv, .npz, medmnist:NAME or demo:NAME, as in "
            "`scanwise train demo:cells`."
        )
    return make_config(values)


def start(threads: int | None) -> None:
    """Tune the process before torch is loaded."""
    from scanwise.core.runtime import tune_process

    tune_process(threads)


def show(result: Any, as_json: bool) -> None:
    if as_json:
        json.dump(result, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        typer.echo(result)
