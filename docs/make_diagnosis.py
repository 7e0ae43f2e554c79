"""Regenerate the list of codes in docs/diagnosis.md from the rules' docstrings.

    python docs/make_diagnosis.py [--check]

The fault table further down is written by benchmarks/faults.py.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scanwise.report import advice, causes, diagnosis

PAGE = Path(__file__).with_name("diagnosis.md")
START, END = "<!-- codes: start -->", "<!-- codes: end -->"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    renewed = with_codes(page)
    if "--check" in sys.argv and renewed != page:
        sys.exit("docs/diagnosis.md is stale; run python docs/make_diagnosis.py")
    PAGE.write_text(renewed, encoding="utf-8")


def with_codes(page: str) -> str:
    """The page with the codes as they are now."""
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n{codes_text()}\n{END}{after}"


def codes_text() -> str:
    """Both tables."""
    rules: dict[str, Callable[..., Any]] = {
        name: rule
        for module in (diagnosis, causes)
        for name, rule in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("check_")
    }
    return "\n\n".join(
        [
            _table("Finding", rules.values()),
            "### Recommendations",
            _table("Recommendation", advice.RULES),
        ]
    )


def _table(title: str, rules: Iterable[Callable[..., Any]]) -> str:
    rows = sorted({_row(rule) for rule in rules})
    return "\n".join(
        [f"| code | {title.lower()} | fires, and its evidence |", "|---|---|---|", *rows]
    )


def _row(rule: Callable[..., Any]) -> str:
    """`CODE: what.` and the paragraphs below it."""
    text = inspect.getdoc(rule) or ""
    found = re.fullmatch(r"([TA]\d{3}): (.*?)(?:\n\n(.*))?", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{rule.__name__} has no docstring that begins with its code: {text!r}")
    code, what, more = (" ".join((part or "").split()) for part in found.groups())
    return f"| {code} | {what} | {more or 'as it says'} |"


if __name__ == "__main__":
    main()
