"""`scanwise explain-term`."""

from __future__ import annotations

from typing import Annotated

import typer

from scanwise.cli.shared import JsonOption, show
from scanwise.core.errors import ConfigError


def explain_term(
    term: Annotated[
        list[str] | None,
        typer.Argument(help="A word of a report or of the screen.", show_default=False),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="All terms, a line each.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what TERM means, such as loss, auroc or "prediction set"."""
    from scanwise.core.glossary import find_term, terms

    if bool(term) == list_:
        raise ConfigError("name one term, as in `scanwise explain-term loss`, or give --list.")
    if list_:
        rows = [each.to_json() for each in terms().values()]
        text = "\n".join(f"{each.name}: {each.means}" for each in terms().values())
        show(rows if as_json else text, as_json)
        return
    found = find_term(" ".join(term or ()))
    show(found.to_json() if as_json else found.text(), as_json)
