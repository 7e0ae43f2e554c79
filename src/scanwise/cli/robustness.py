"""`scanwise robustness RUN`: how much of its score is left on worse pictures."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.core.errors import ConfigError, nearest


def robustness(
    run: RunArgument,
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="val|test", help="test is a look at test, kept in its ledger."
        ),
    ] = "val",
    max_images: Annotated[
        int, typer.Option("--max-images", help="Of a larger split, so many drawn by chance.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of draw, noise and bootstrap.", min=0)] = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where to compute.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score RUN on blurred, noisy, compressed, bright, flat and small copies of its images."""
    names: tuple[Literal["val", "test"], ...] = ("val", "test")
    part = next((name for name in names if name == split), None)
    if part is None:
        raise ConfigError(f"split='{split}': {nearest(split, names)}")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"device='{device}': {nearest(device, ('auto', 'cpu', 'cuda', 'mps'))}")
    start(None)
    from scanwise.pipeline.robustness import measure_robustness
    from scanwise.training.device import pick_device

    where = str(pick_device(device))
    found = measure_robustness(run, split=part, max_images=max_images, seed=seed, device=where)
    show(found.to_json() if as_json else found.text(), as_json)
