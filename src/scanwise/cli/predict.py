"""`scanwise predict`: an answer to each image, as a CSV."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanwise.cli.compare import AddressOption, BackendOption, whole_number
from scanwise.cli.shared import JsonOption, show, start
from scanwise.core.errors import ConfigError, PartialError

if TYPE_CHECKING:
    from scanwise.pipeline.sort_into import SortPlan


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|RUN|FILE.onnx", help="What answers.", show_default=False
        ),
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATHS...",
            help="Images, folders, globs, @LIST, CSV manifests, .npz.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="CSV to write; - is stdout.")
    ] = "predictions.csv",
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--list", metavar="FILE", help="Text file of paths, one a line; - is stdin.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where it was interrupted.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the CSV.")] = False,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            "--sort-into", metavar="DIR", help="New folder for copies, by class.",
            show_default=False,
        ),
    ] = None,
    min_prob: Annotated[
        str,
        typer.Option("--min-prob", metavar="FLOAT", help="Less sure ones go to _review."),
    ] = "0.9",
    link: Annotated[
        bool, typer.Option("--link/--copy", help="Symbolic links instead of copies.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where to compute.")
    ] = "auto",
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size", metavar="INT", help="Images read and answered at a time.",
            show_default=False,
        ),
    ] = None,
    backend: BackendOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Answer each image: one row of a CSV an input, in their order, also for bad files."""
    if as_json and output == "-":
        raise ConfigError("--json and -o - both write to stdout; give -o FILE.")
    if resume and force:
        raise ConfigError("--resume goes on, --force begins anew; give one of them.")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"device={device!r} is unknown; choose auto, cpu, cuda or mps.")
    start(None)
    from scanwise.pipeline.predict import Job
    from scanwise.studies.predict_workers import predict_on

    job = Job(
        model=model,
        given=tuple(paths or ()),
        lists=tuple(lists or ()),
        output=output,
        device=device,
        batch_size=None if batch_size is None else whole_number("batch_size", batch_size),
        resume=resume,
        force=force,
        sort=_sort_plan(sort_into, min_prob, link),
    )
    found = predict_on(job, backend, address)
    if output == "-":
        typer.echo(found.text(), file=sys.stderr)
    else:
        show(found.to_json() if as_json else found.text(), as_json)
    if found.tally.errors:
        raise PartialError(f"{found.tally.errors:,} of {found.tally.n:,} inputs have no answer.")


def _sort_plan(folder: Path | None, min_prob: str, link: bool) -> SortPlan | None:
    if folder is None:
        if link or min_prob != "0.9":
            raise ConfigError("--min-prob, --link and --copy need --sort-into DIR.")
        return None
    from scanwise.pipeline.sort_into import SortPlan

    try:
        return SortPlan(folder, float(min_prob), "link" if link else "copy")
    except ValueError as error:
        raise ConfigError(f"min_prob={min_prob!r} must be a number from 0 to 1.") from error
