"""Drafts of CLAIM and TRIPOD+AI: sentences from the run's files, the rest left to the author."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scanwise.core.errors import RunError
from scanwise.core.types import Interval
from scanwise.report import draft_facts
from scanwise.report.drafts import AUTHOR, CHECKLISTS, CLAIM, TRIPOD, draft, write_drafts
from scanwise.report.run_files import read_run

ITEM = re.compile(r"^- \*\*(\S+) .+?\*\*", re.MULTILINE)


def test_every_item_of_the_checklists_is_there_once(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    assert ITEM.findall(draft(CLAIM, run)) == [str(number) for number in range(1, 45)]
    tripod = ITEM.findall(draft(TRIPOD, run))
    assert len(tripod) == len(set(tripod)) == 52
    assert {re.sub(r"[a-z]", "", number) for number in tripod} == {str(n) for n in range(1, 28)}


def test_numbers_are_those_of_the_run(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    text = draft(CLAIM, run)
    test = run.splits["test"]
    for key in ("accuracy", "balanced_accuracy", "auroc_macro"):
        assert str(Interval.from_json(test[key])) in text
    for entry in test["per_class"]:
        assert f"{entry['name']} (n={entry['n']}): sensitivity " in text
    rows = run.predictions.of_split("test")
    wrong = int((rows.predicted != rows.targets).sum())
    assert f"{wrong:,} of {len(rows):,} test images were answered wrongly" in text
    assert run.dataset["split"]["sha256"][:12] in text


def test_an_item_is_filled_or_asks_its_author(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    for checklist in CHECKLISTS:
        text = draft(checklist, run)
        lines = [line for line in text.splitlines() if line.startswith("- **")]
        open_items = [line for line in lines if AUTHOR in line]
        assert 10 < len(open_items) < len(lines)
        filled = len(lines) - len(open_items)
        assert f"{filled} of {len(lines)} items are filled; {len(open_items)} need you" in text
        assert all(line.split("** ", 1)[1].strip() for line in lines)
        assert "not a medical device" in text
        assert "None" not in text


@pytest.mark.parametrize(
    "missing", ["metrics.json", "training.json", "dataset.json", "env.json", "test_ledger.csv"]
)
def test_what_the_run_does_not_say_is_asked(missing: str, make_run: Callable[..., Path]) -> None:
    folder = make_run()
    before = draft(CLAIM, read_run(folder)).count(AUTHOR)
    (folder / missing).unlink(missing_ok=True)
    after = draft(CLAIM, read_run(folder))
    assert after.count(AUTHOR) >= before
    if missing in ("metrics.json", "training.json", "dataset.json"):
        assert after.count("the run does not say") > 1


def test_leaks_and_several_looks_are_limitations(
    make_run: Callable[..., Path], sim: SimpleNamespace
) -> None:
    folder = make_run(sim.Simulated(leaked=60))
    ledger = folder / "test_ledger.csv"
    ledger.write_text(ledger.read_text() + ledger.read_text().splitlines()[-1] + "\n")
    text = draft(CLAIM, read_run(folder))
    looks = len(read_run(folder).looks)
    assert looks > 1
    assert f"was looked at {looks} times" in text
    assert "leaky" in draft_facts.disjoint(read_run(folder))
    assert draft_facts.conclusion(read_run(folder)).endswith("these scores are too good.")


def test_an_authors_words_are_not_overwritten(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder, paper = make_run(), tmp_path / "paper"
    claim, tripod = write_drafts(folder, paper)
    claim.write_text("my own words")
    tripod.unlink()
    with pytest.raises(RunError, match="perhaps with your own words"):
        write_drafts(folder, paper)
    assert claim.read_text() == "my own words"
    assert not tripod.exists()  # nothing half-written
    write_drafts(folder, paper, force=True)
    assert "44 items" in claim.read_text()
    with pytest.raises(RunError, match="not a run folder"):
        write_drafts(tmp_path, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_without_test_says_so(make_run: Callable[..., Path], sim: SimpleNamespace) -> None:
    run = read_run(make_run(sim.Simulated(test=False)))
    assert draft_facts.performance(run).startswith("Validation (n=")
    assert draft_facts.test_size(run) is None or "test set has" in draft_facts.test_size(run)


def test_excluded_images_are_counted(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(make_run(), folder)
    assert draft_facts.excluded(read_run(folder)) == "Every image could be read; none was left out."
    data = json.loads((folder / "dataset.json").read_text())
    said = "3 of 200 files (1.5%) can't be read: a.png (zero bytes)."
    data["checks"]["findings"].append({"code": "D001", "severity": "warning", "evidence": said})
    (folder / "dataset.json").write_text(json.dumps(data))
    assert draft_facts.excluded(read_run(folder)) == said
