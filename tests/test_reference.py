"""docs/reference/ is what the code says: made by docs/make_reference.py, complete, not stale."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from scanwise.core.config import TrainConfig
from scanwise.core.glossary import terms

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """Every page as the code gives it now."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("make_reference").pages()
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_no_page_is_stale(made: dict[str, str]) -> None:
    folder = ROOT / "docs" / "reference"
    assert {path.name for path in folder.iterdir()} == set(made)
    stale = [name for name, text in made.items() if (folder / name).read_text("utf-8") != text]
    assert stale == [], "run make docs"


def test_every_code_of_the_source_is_explained_and_means_one_thing(made: dict[str, str]) -> None:
    source = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    used = {code for text in source for code in re.findall(r'"([A-Z]\d{3})"', text)}
    rows = re.findall(
        r"^\| \*\*([A-Z]\d{3})\*\* \| (.*?) \| (.*?) \|", made["codes.md"], re.MULTILINE
    )
    assert {code for code, _, _ in rows} == used
    assert len(rows) == len(used)
    for code, severity, says in rows:
        assert says, code
        assert severity or code.startswith("A"), code  # recommendations have no severity


def test_every_setting_has_its_flag_key_and_variable(made: dict[str, str]) -> None:
    for name, field in TrainConfig.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", made["settings.md"], re.MULTILINE)
        assert f"`SCANWISE_{name.upper()}`" in row
        assert (field.description or "").replace("|", "\\|") in row
        assert name == "data" or f"`--{name.replace('_', '-')}`" in row


def test_every_verb_has_its_section(made: dict[str, str]) -> None:
    from scanwise.cli.commands import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    sections = set(re.findall(r"^## scanwise (\S+)", made["commands.md"], re.MULTILINE))
    assert sections == verbs | {group.name for group in app.registered_groups}
    assert "`-o`, `--output" in made["commands.md"]


def test_error_messages_are_found_with_their_words(made: dict[str, str]) -> None:
    page = made["error-messages.md"]
    assert "- --resume RUN takes everything from the run's config.yaml; leave out the rest." in page
    assert re.search(r"\| 3 \| Data integrity is broken", page)
    assert page.count("\n- ") > 500


def test_every_word_has_its_section(made: dict[str, str]) -> None:
    assert set(re.findall(r"^## (.*)$", made["glossary.md"], re.MULTILINE)) == set(terms())


def test_public_python_names_are_described(made: dict[str, str]) -> None:
    import scanwise

    for name in scanwise.__all__:
        assert f"## sw.{name}\n" in made["python.md"]
    assert "### sw.Bundle.predict\n" in made["python.md"]
