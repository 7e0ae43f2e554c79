"""`scanwise weights`: published weights in the cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer

weights_app = typer.Typer(
    help="Published weights for transfer learning: which there are, get them, where they lie.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[
    str, typer.Argument(help="Such as resnet18.imagenet, or resnet18.", show_default=False)
]


@weights_app.command(name="list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the published weights, and which are in the cache."""
    from dataclasses import asdict

    from scanwise.core.downloads import cached
    from scanwise.models.weights import PUBLISHED

    states = {name: cached(entry.download) for name, entry in PUBLISHED.items()}
    if as_json:
        rows = [
            {**asdict(entry), "cache": states[name], "path": str(entry.download.target)}
            for name, entry in PUBLISHED.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = [("name", "architecture", "MB", "trained at", "licence", "in the cache")] + [
        (
            name,
            entry.architecture,
            f"{entry.size_mb:.1f}",
            f"{entry.size_px} px",
            entry.licence,
            {"verified": "yes", "missing": "no"}.get(states[name], states[name]),
        )
        for name, entry in PUBLISHED.items()
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        typer.echo("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


@weights_app.command()
def pull(name: NameArgument) -> None:
    """Download NAME into the cache, verify its hash, and print its path."""
    from scanwise.models.weights import fetch_weights, find_published

    typer.echo(str(fetch_weights(find_published(name))))


@weights_app.command()
def path(name: NameArgument) -> None:
    """Print where NAME lies in the cache, verified; never downloads."""
    from scanwise.models.weights import cached_weights, find_published

    typer.echo(str(cached_weights(find_published(name))))
