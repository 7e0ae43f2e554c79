"""`scanwise explain RUN|BUNDLE [IMAGES…]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, show, start


def explain(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="Run or bundle.", show_default=False)
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files or folders [a gallery of RUN's validation images].",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", metavar="auto|gradcam|occlusion|integrated-gradients"),
    ] = "auto",
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Whose evidence [the predicted class's].", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="New folder [RUN/explanations; of named images ./explanations].",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int, typer.Option("-n", help="Right and wrong images of each class, at most.")
    ] = 6,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an --output folder of explanations.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of random maps and weights.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show where the evidence for each answer lies, and test whether the maps can be trusted."""
    start(None)
    from scanwise.pipeline.explain import ExplainRequest, explain_to_folder

    request = ExplainRequest(
        source, tuple(images or ()), method, class_name, output, per_class, force, seed
    )
    done = explain_to_folder(request, say=lambda text: typer.echo(text, err=True))
    show(done.document if as_json else done.text(), as_json)
    done.raise_if_partial()
