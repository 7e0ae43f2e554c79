"""`scanwise compare`: a base and its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scanwise.cli.options import with_settings
from scanwise.cli.shared import JsonOption, gather_settings, show, start
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.processes import check_alone

SeedsOption = Annotated[
    str, typer.Option("--seeds", metavar="INT", help="Trainings of each variant. [1]")
]
CvOption = Annotated[
    str | None,
    typer.Option(
        "--cv", metavar="INT", help="Folds; each image is tested once.", show_default=False
    ),
]
JobsOption = Annotated[
    str, typer.Option("--jobs", metavar="auto|INT", help="Trainings side by side. [auto]")
]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="local|ray", help="Where. [local]")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, such as ray://HOST:10001.", show_default=False),
]


@with_settings(leave_out=("report", "explain", "devices", "nodes"))
def compare(
    settings: dict[str, Any],
    data: Annotated[
        list[str],
        typer.Argument(
            help="Data sets, as for train; a .yaml file holds settings of the base.",
            show_default=False,
        ),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="KEY=VALUE",
            help="A variant: what differs from the base. Again for each variant; "
            "'optimizer=sgd lr=0.1' changes two settings at once.",
            show_default=False,
        ),
    ] = None,
    seeds: SeedsOption = "1",
    cv: CvOption = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="What verdicts rest on. [accuracy; multi-label: auroc_macro]",
            show_default=False,
        ),
    ] = None,
    jobs: JobsOption = "auto",
    backend: BackendOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare variants of a base on the same images: what is better, if anything is."""
    files = [name for name in data if Path(name).suffix in (".yaml", ".yml")]
    if len(files) > 1:
        raise ConfigError(f"one .yaml file of settings, not {len(files)}: {', '.join(files)}.")
    sets = [name for name in data if name not in files]
    config = gather_settings(sets[0] if sets else None, settings, Path(files[0]) if files else None)
    start(config.threads)
    from scanwise.studies.compare import Asked
    from scanwise.studies.compare import compare as run_study
    from scanwise.studies.compare_page import study_text, write_study

    asked = Asked(
        data=tuple(sets or [config.data]),
        vary=tuple(vary or ()),
        seeds=whole_number("seeds", seeds),
        cv=None if cv is None else whole_number("cv", cv),
        metric=metric,
        jobs=jobs,
        backend=backend,
        address=address,
    )
    found = run_study(config, asked)
    write_study(found)
    show(found.to_json() if as_json else study_text(found), as_json)
    if found.failed:
        raise typer.Exit(1)


def train_repeatedly(
    config: TrainConfig,
    seeds: int,
    cv: str | None,
    deploy: str | None,
    machines: tuple[str, str, str | None],
    as_json: bool,
) -> None:
    """`train --seeds N --cv K`: train as a study, print, and end with 1 where a training failed."""
    from scanwise.studies.compare import Asked
    from scanwise.studies.compare_page import repeated_text, write_repeated
    from scanwise.studies.cross_validation import BEST_MEMBERS, cross_validate, train_best

    check_alone(config.devices, config.nodes)
    if config.preset == "best" and cv is None and deploy in (None, "ensemble"):
        members = BEST_MEMBERS if seeds == 1 else seeds
        found = train_best(config, members=members, machines=machines)
    else:
        jobs, backend, address = machines
        folds = None if cv is None else whole_number("cv", cv)
        asked = Asked(
            (config.data,), seeds=seeds, cv=folds, jobs=jobs, backend=backend, address=address
        )
        found = cross_validate(config, asked, deploy)  # type: ignore[arg-type]
    write_repeated(found)
    show(found.to_json() if as_json else repeated_text(found), as_json)
    if found.findings.failed:
        raise typer.Exit(1)


def whole_number(name: str, text: str) -> int:
    """The number of a flag.

    Raises:
        ConfigError: If it is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text!r} must be a whole number.") from error
