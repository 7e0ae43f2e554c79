"""Every `scanwise …` line of the documentation is one that the command line accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer._click.exceptions import UsageError

from scanwise.cli.commands import app
from scanwise.cli.options import PANELS
from scanwise.core.config import make_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
FENCE = re.compile(r"```(?:bash|console|sh|text)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(scanwise [^`]+)`")
COMMAND = typer.main.get_command(app)


def fenced(text: str) -> Iterator[str]:
    """The commands of all boxes, continued lines joined, comments and what follows a pipe cut."""
    indented = "\n".join(re.findall(r"^ {4}scanwise .*", FENCE.sub("", text), re.MULTILINE))
    for box in (*FENCE.findall(text), indented):
        for line in box.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(scanwise .*)", line)
            if found:
                yield re.split(r" (?:\||&&|>|2>) ?", found[1])[0]


def complaint(line: str) -> str:
    """What the command line has against it; '' for nothing. Nothing is run."""
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("…", "...")]
    command = COMMAND
    names = ["scanwise"]
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            return "" if words[0] in ("--help", "--version") else f"{words[0]} before a verb"
        name = words.pop(0)
        if name not in command.commands:
            return f"there is no 'scanwise {name}'"
        command = command.commands[name]
        names.append(name)
    if "--help" in words or hasattr(command, "commands"):
        return ""
    try:
        context = command.make_context(" ".join(names), [w for w in words if w != "--debug"])
    except UsageError as error:
        return error.format_message()
    return wrong_setting(command, context.params)


def wrong_setting(command, values: dict[str, object]) -> str:
    settings = {
        each.name: values[each.name]
        for each in command.params
        if getattr(each, "rich_help_panel", None) in PANELS.values()
        and values.get(each.name) is not None
    }
    # "DATA", "NAME" and other words in capitals stand for what the reader has.
    settings = {name: value for name, value in settings.items() if not str(value).isupper()}
    try:
        make_config(settings)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_boxes_show_commands_that_exist(page: Path) -> None:
    found = {line: complaint(line) for line in fenced(page.read_text(encoding="utf-8"))}
    assert {line: said for line, said in found.items() if said} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_text_names_verbs_and_flags_that_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for line in INLINE.findall(" ".join(text.split())):
        words = line.split()[1:]
        command = COMMAND
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        flags = {word.partition("=")[0].rstrip(",.") for word in words if word.startswith("--")}
        if (hasattr(command, "commands") and words and words[0][0].isalpha()) or flags - known - {
            "--help", "--debug",
        }:  # fmt: skip
            wrong.append(line)
    assert wrong == []


def test_commands_are_found_at_all() -> None:
    found = [line for page in PAGES for line in fenced(page.read_text(encoding="utf-8"))]
    assert len(found) > 100
    assert len({line.split()[1] for line in found}) > 20


def test_a_wrong_line_would_be_found() -> None:
    assert "no 'scanwise trian'" in complaint("scanwise trian x")
    assert "--epoch" in complaint("scanwise train x --epoch 3")
    assert "sgdd" in complaint("scanwise train x --optimizer sgdd")
    assert complaint("scanwise runs list --sort date  # by age") == ""
    assert "Missing argument" in complaint("scanwise verify-report")
