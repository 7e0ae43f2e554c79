"""The tutorials' boxes and Python are run again; what they print must be what the page shows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from tests.conftest import load_script

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.fixture(scope="module")
def make_guide() -> ModuleType:
    return load_script("docs/make_guide.py")


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_shows_what_happens(make_guide, page: Path, tmp_path: Path) -> None:
    maker = make_guide.Maker(tmp_path)
    found = make_guide.blocks(page.read_text(encoding="utf-8"))
    assert len(found) >= 2
    stale = [line for block in found for line in make_guide.differences(block, maker.make(block))]
    assert stale == [], f"run python docs/make_guide.py --anew {page.relative_to(ROOT)}"


def test_there_are_four_and_every_box_of_them_is_run(make_guide) -> None:
    assert len(TUTORIALS) == 4
    for page in TUTORIALS:
        text = page.read_text(encoding="utf-8")
        kinds = [block.kind for block in make_guide.blocks(text)]
        assert text.count("```console") == kinds.count("run")
        assert text.count("```python") == kinds.count("python")


def test_a_box_may_differ_in_numbers_but_not_in_words(make_guide) -> None:
    old = "$ scanwise x --n 3\n  coverage  179  0.804 [0.725, 0.865]\nfound +0.1 ± 0.2"
    block = make_guide.Block("run", "scanwise x --n 3", "", False, old, form=True)
    assert make_guide.differences(block, old.replace("0.804", "0.913*")) == []
    assert make_guide.differences(block, old.replace("coverage", "share"))
    assert make_guide.differences(block, old.replace("--n 3", "--n 4"))
    assert make_guide.differences(block, old + "\nmore")
