"""Every verb of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanwise import __version__
from scanwise.cli.app import app as workbench
from scanwise.cli.benchmark import benchmark
from scanwise.cli.compare import (
    AddressOption,
    BackendOption,
    CvOption,
    JobsOption,
    SeedsOption,
    compare,
    train_repeatedly,
    whole_number,
)
from scanwise.cli.conformal import conformal
from scanwise.cli.counts import counts
from scanwise.cli.doctor import doctor
from scanwise.cli.ensemble import ensemble
from scanwise.cli.errors import errors
from scanwise.cli.evaluate import evaluate
from scanwise.cli.explain import explain
from scanwise.cli.explain_term import explain_term
from scanwise.cli.export import export
from scanwise.cli.launch import start_processes
from scanwise.cli.monitor import monitor
from scanwise.cli.ood import ood
from scanwise.cli.options import with_settings
from scanwise.cli.predict import predict
from scanwise.cli.recommend import recommend
from scanwise.cli.relabel import relabel_app
from scanwise.cli.reproduce import reproduce
from scanwise.cli.robustness import robustness
from scanwise.cli.runs import runs_app
from scanwise.cli.serve import serve
from scanwise.cli.shared import (
    DataArgument,
    JsonOption,
    RunArgument,
    gather_settings,
    show,
    start,
)
from scanwise.cli.suggest_labels import suggest_labels
from scanwise.cli.summary import summary
from scanwise.cli.thresholds import thresholds
from scanwise.cli.tune import tune
from scanwise.cli.weights import weights_app
from scanwise.core.commands import CHECK_SETTINGS, command_line
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.processes import is_first

if TYPE_CHECKING:
    from scanwise.pipeline.verify import Verification
    from scanwise.studies.training_summary import SummaryCheck

app = typer.Typer(
    help=(
        "Train, judge and ship classifiers of medical images. "
        "Research software, not a medical device."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="A mistake ends with one line and exit code 2; --debug shows where it was raised.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scanwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@with_settings()
def train(
    settings: dict[str, Any],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Class folder, .csv manifest, .npz, medmnist:NAME[@SIZE] or demo:NAME.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with an interrupted run.", show_default=False),
    ] = None,
    seeds: SeedsOption = "1",
    cv: CvOption = None,
    deploy: Annotated[
        str | None,
        typer.Option(
            "--deploy",
            metavar="ensemble|refit",
            help="With --cv or --seeds: the model to use.",
            show_default=False,
        ),
    ] = None,
    jobs: JobsOption = "auto",
    backend: BackendOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on DATA and write an honest report.

    With --cv, --seeds or --preset best it is a study of several trainings.
    """
    number = whole_number("seeds", seeds)
    resolved = None if resume is not None else gather_settings(data, settings, config)
    several = number != 1 or cv is not None or deploy is not None
    if resolved is not None and (several or resolved.preset == "best"):
        start(resolved.threads)
        train_repeatedly(resolved, number, cv, deploy, (jobs, backend, address), as_json)
        return
    if resolved is None:
        assert resume is not None
        if data is not None or settings or config is not None or number != 1 or cv or deploy:
            raise ConfigError(
                "--resume RUN takes everything from the run's config.yaml; leave out the rest."
            )
        from scanwise.pipeline.runs import Run

        saved = Run.open(resume).config
        start_processes(saved.devices, saved.nodes, saved.threads)
        start(None)
        from scanwise.pipeline.train import resume as resume_run

        run = resume_run(resume)
    else:
        start_processes(resolved.devices, resolved.nodes, resolved.threads)
        start(resolved.threads)
        from scanwise.pipeline.train import train as train_run

        run = train_run(resolved)
    if not is_first():
        return
    from scanwise.pipeline.summary import run_summary, run_summary_json

    show(run_summary_json(run) if as_json else run_summary(run), as_json)


@app.command()
@with_settings(
    leave_out=tuple(name for name in TrainConfig.model_fields if name not in CHECK_SETTINGS)
)
def check(
    settings: dict[str, Any],
    data: DataArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="New folder for the page and its plots.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for trouble in DATA without training: leaks, duplicates, bad files, odd images."""
    resolved = gather_settings(data, settings, None)
    start(resolved.threads)
    from scanwise.pipeline.check import check_data, check_summary

    result = check_data(resolved, output)
    show(result.to_json() if as_json else check_summary(result, output), as_json)
    if result.report.stop is not None:
        raise result.report.stop


@app.command(name="learning-curve")
@with_settings(leave_out=("output", "no_test", "time_limit", "devices", "nodes"))
def learning_curve(
    settings: dict[str, Any],
    data: DataArgument,
    shares: Annotated[
        str, typer.Option("--shares", help="Percentages of the training split, up to 100.")
    ] = "10,25,50,100",
    repeats: Annotated[
        str, typer.Option("--repeats", metavar="INT", help="Trainings of each share.")
    ] = "3",
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="New folder for the curve as JSON, page and plot.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Would more data help? Train on growing parts of DATA; test images are not scored."""
    resolved = gather_settings(data, settings, config)
    parts = [number / 100 for number in _numbers("shares", shares)]
    times = _numbers("repeats", repeats)
    if len(times) != 1 or times[0] != int(times[0]) or times[0] < 1:
        raise ConfigError(f"repeats={repeats!r} must be a whole number from 1, such as 3.")
    start(resolved.threads)
    from scanwise.studies.learning_curve import curve_summary
    from scanwise.studies.learning_curve import learning_curve as measure

    found = measure(resolved, output, shares=parts, repeats=int(times[0]))
    show(found.to_json() if as_json else curve_summary(found, output), as_json)


def _numbers(name: str, text: str) -> list[float]:
    """Numbers between commas.

    Raises:
        ConfigError: If one can't be read.
    """
    try:
        return [float(word) for word in text.replace("%", "").split(",")]
    except ValueError as error:
        raise ConfigError(f"{name}={text!r} must be numbers, such as 10,25,50,100.") from error


@app.command()
def init(
    demo: Annotated[
        Path, typer.Option("--demo", help="New folder to write the demo into.", show_default=False)
    ],
    data: Annotated[str, typer.Option("--data", help="Which demo.")] = "demo:cells",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
) -> None:
    """Write the built-in demo as a folder of class folders, to try everything on files."""
    from scanwise.data.demo import write_demo_folder

    facts = write_demo_folder(demo, data, force=force)
    typer.echo(f"{demo}: {', '.join(f'{key} {value}' for key, value in facts.items())}")
    command = command_line("train", str(demo), {"group_regex": r"(slide\d+)"})
    typer.echo(f"next: {command}")


@app.command()
def report(
    run: RunArgument,
    paper: Annotated[
        Path | None,
        typer.Option(help="Folder for drafts of CLAIM and TRIPOD+AI, filled from the run."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace drafts that are there.")] = False,
) -> None:
    """Write report.html, report.md and report.json anew from the run's files."""
    from scanwise.pipeline.runs import Run
    from scanwise.report.build import build_report
    from scanwise.report.drafts import write_drafts

    opened = Run.open(run).path
    if paper is not None:
        typer.echo("\n".join(str(file) for file in write_drafts(opened, paper, force=force)))
        return
    typer.echo(str(build_report(opened).html))


@app.command(name="verify-report")
def verify_report(run: RunArgument, as_json: JsonOption = False) -> None:
    """Recompute every number of a run, or of a summary folder, from predictions.csv."""
    result: Verification | SummaryCheck
    if (run / "TRAINING_SUMMARY.md").is_file():
        from scanwise.studies.training_summary import verify_summary

        result = verify_summary(run)
    else:
        from scanwise.pipeline.verify import verify_run

        result = verify_run(run)
    show(result.to_json() if as_json else result.text(), as_json)
    if result.mismatches:
        raise typer.Exit(3)


for verb in (
    compare, tune, ensemble, summary, benchmark, reproduce, evaluate, thresholds, conformal,
    recommend, explain, robustness, ood, errors, counts, predict, export, serve, monitor, doctor,
):  # fmt: skip
    app.command()(verb)
app.command(name="app")(workbench)
app.command(name="suggest-labels")(suggest_labels)
app.command(name="explain-term")(explain_term)
app.add_typer(relabel_app, name="relabel")
app.add_typer(runs_app, name="runs")
app.add_typer(weights_app, name="weights")
