"""docs/diagnosis.md lists every code as the rules' docstrings have it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tests.conftest import load_script

from scanwise.report import advice, causes, diagnosis

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_list_of_codes_is_not_stale() -> None:
    maker = load_script("docs/make_diagnosis.py")
    page = (DOCS / "diagnosis.md").read_text(encoding="utf-8")
    assert maker.with_codes(page) == page, "run python docs/make_diagnosis.py"


def test_every_code_that_is_used_is_listed_once() -> None:
    page = (DOCS / "diagnosis.md").read_text(encoding="utf-8")
    used = set()
    for module in (advice, causes, diagnosis):
        used |= set(re.findall(r'"([TA]0\d\d)",', inspect.getsource(module)))
    listed = re.findall(r"^\| ([TA]0\d\d) \|", page, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert used <= set(listed)
