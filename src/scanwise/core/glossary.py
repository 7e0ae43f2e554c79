"""The words of reports and pages, plainly: one file of terms, each found by any of its names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from scanwise.core.errors import ConfigError, nearest

FILE = Path(__file__).with_name("glossary.yaml")


@dataclass(frozen=True)
class Term:
    """A word, its other names and its meaning; `page` is the place under docs/ that says more."""

    name: str
    means: str
    more: str = ""
    also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    page: str = ""

    def text(self) -> str:
        """What `scanwise explain-term` prints."""
        lines = [f"{self.name}: {self.means}"]
        if self.more:
            lines.append(self.more)
        if self.also:
            lines.append(f"other names: {', '.join(self.also)}")
        if self.beside:
            lines.append(f"beside it: {', '.join(self.beside)}")
        if self.page:
            lines.append(f"read on: docs/{self.page}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "term": self.name,
            "means": self.means,
            "more": self.more,
            "also": list(self.also),
            "beside": list(self.beside),
            "page": self.page,
        }


@cache
def terms() -> dict[str, Term]:
    """Every term by its name, in the order of the file."""
    rows = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        name: Term(
            name,
            row["means"],
            row.get("more", ""),
            tuple(row.get("also", ())),
            tuple(row.get("beside", ())),
            row.get("page", ""),
        )
        for name, row in rows.items()
    }


def find_term(word: str) -> Term:
    """The term of this name or other name; capitals, "_" and "-" make no difference.

    Raises:
        ConfigError: If there is none; names the nearest ones.
    """
    known = {_key(name): term for term in terms().values() for name in (*term.also, term.name)}
    if _key(word) in known:
        return known[_key(word)]
    close = nearest(_key(word), known)
    hint = close if close.startswith("did you mean") else "`scanwise explain-term --list` has all."
    raise ConfigError(f"no term '{word}' in the glossary; {hint}")


def _key(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split())
