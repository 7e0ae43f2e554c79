"""`scanwise thresholds RUN`: from which probability on is an image called a class?"""

from __future__ import annotations

from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, RunArgument, show, start
from scanwise.core.errors import ConfigError

ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="The class, against all others; of two classes the second if left out.",
        show_default=False,
    ),
]


def thresholds(
    run: RunArgument,
    class_name: ClassOption = None,
    sensitivity: Annotated[
        float | None,
        typer.Option("--sensitivity", help="Find this share, such as 0.95.", show_default=False),
    ] = None,
    specificity: Annotated[
        float | None,
        typer.Option("--specificity", help="Clear this share.", show_default=False),
    ] = None,
    youden: Annotated[
        bool, typer.Option("--youden", help="Largest sensitivity + specificity - 1.")
    ] = False,
    cost: Annotated[
        str | None,
        typer.Option(
            "--cost",
            metavar="MISS:FALSE_ALARM",
            help="What each mistake costs, such as 10:1.",
            show_default=False,
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget the threshold.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose a class's threshold on validation; what it achieves on test, stored in the bundle."""
    asked = [sensitivity is not None, specificity is not None, youden, cost is not None, clear]
    if sum(asked) != 1:
        raise ConfigError(
            "say what you want, and one thing only: --sensitivity S, --specificity S, --youden, "
            "--cost MISS:FALSE_ALARM or --clear."
        )
    from scanwise.metrics.thresholds import Rule

    if cost is not None:
        miss, false_alarm = _costs(cost)
        rule = Rule("cost", miss=miss, false_alarm=false_alarm)
    elif youden:
        rule = Rule("youden")
    elif sensitivity is not None:
        rule = Rule("sensitivity", sensitivity)
    elif not clear:
        rule = Rule("specificity", specificity)
    start(None)
    from scanwise.pipeline.decision_text import threshold_text
    from scanwise.pipeline.decisions import clear_threshold, set_threshold

    if clear:
        name = clear_threshold(run, class_name)
        show({"cleared": name} if as_json else f"'{name}' has no threshold any more", as_json)
        return
    entry = set_threshold(run, class_name, rule)
    show(entry if as_json else threshold_text(entry), as_json)


def _costs(text: str) -> tuple[float, float]:
    """Two numbers around a colon.

    Raises:
        ConfigError: If they can't be read.
    """
    try:
        miss, false_alarm = (float(word) for word in text.split(":"))
    except ValueError as error:
        raise ConfigError(
            f"--cost {text!r} must be MISS:FALSE_ALARM, such as 10:1 where a miss costs ten times "
            "a false alarm."
        ) from error
    return miss, false_alarm
