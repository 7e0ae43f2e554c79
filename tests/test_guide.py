"""docs/guide.md says what the tool does: its boxes are run again, its numbers are the code's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import load_script

from scanwise.core.config import TrainConfig
from scanwise.data.checks import GUIDELINE
from scanwise.metrics.trivial import COLLAPSED_SHARE
from scanwise.pipeline.plan import DataFacts, make_plan
from scanwise.prepare.augment import PRESETS
from scanwise.prepare.balance import class_weights, describe_class_weights
from scanwise.report.verdict import TOO_FEW
from scanwise.training.schedule import PLATEAU_FACTOR

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")

# Every heading of the guide that ours follows (seed S2), and ours in its place.
HEADINGS = {
    "# Comprehensive Training Guide": "# Training guide",
    "## Understanding Image Classification": "## Understanding image classification",
    "## Training Process Overview": "## Training process overview",
    "## Key Training Parameters": "## Key training parameters",
    "### Epochs": "### Epochs",
    "### Batch Size": "### Batch size",
    "### Learning Rate": "### Learning rate",
    "## Understanding Training Output": "## Understanding training output",
    "### What Makes a Good Training Run?": "### What makes a good training run?",
    "#### Ideal Pattern": "### What makes a good training run?",
    "#### Signs of Problems": "### Signs of problems",
    "## Example of a Good Training Run": "## Example of a good training run",
    "## Advanced Training Techniques": "## Advanced training techniques",
    "### Class Weighting": "### Class weighting",
    "### Data Augmentation": "### Data augmentation",
    "### Transfer Learning": "### Transfer learning",
    "## Tips for Optimal Results": "## Tips for optimal results",
    "## Handling Different Dataset Sizes": "## Handling different data-set sizes",
    "### Very Small Datasets (<100 total images)": "### Very small (under 100 pictures in all)",
    "### Medium Datasets (100-1000 images)": "### Medium (100 to 1000)",
    "### Large Datasets (>1000 images)": "### Large (over 1000)",
    "## Next Steps After Training": "## Next steps after training",
}

# The guide's sizes, one for each row of the table.
SIZES = {
    "small": DataFacts(90, 63, 10, True, pretrained=True),
    "medium, few of a class": DataFacts(500, 350, 60, True, pretrained=True),
    "medium": DataFacts(1000, 700, 100, True, pretrained=True),
    "large": DataFacts(1001, 701, 100, True, pretrained=True),
    "fresh": DataFacts(500, 350, 60, True),
}


make_guide = load_script("docs/make_guide.py")
BLOCKS = make_guide.blocks(GUIDE)


def plan(size: str) -> TrainConfig:
    return make_plan(TrainConfig(preset=None if size == "fresh" else "auto"), SIZES[size])[0]


def prose() -> str:
    """The guide without its generated blocks."""
    return make_guide.BLOCK.sub("", GUIDE)


def said(*words: str) -> None:
    """Assert that the guide says so, wherever its lines break."""
    flat = " ".join(GUIDE.split())
    for sentence in words:
        assert sentence in flat, sentence


def test_every_section_of_the_guide_that_ours_follows_has_its_counterpart_in_order() -> None:
    places = [GUIDE.find(f"\n{ours}\n") for ours in HEADINGS.values() if not ours.startswith("# ")]
    assert GUIDE.startswith("# Training guide\n")
    assert -1 not in places
    assert places == sorted(places)


def test_no_heading_of_that_guide_is_forgotten(shared: Path) -> None:
    (seed,) = (shared / "seeds").glob("002*")
    text = re.sub(r"```.*?```", "", seed.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"^#+ .*$", text, flags=re.MULTILINE) == list(HEADINGS)


@pytest.mark.slow
def test_the_boxes_show_what_the_commands_print(tmp_path: Path) -> None:
    maker = make_guide.Maker(tmp_path)
    runnable = [block for block in BLOCKS if not block.needs]
    assert len(runnable) >= 12
    stale = [
        line for block in runnable for line in make_guide.differences(block, maker.make(block))
    ]
    assert stale == [], "run make docs, then read the guide again"


@pytest.mark.slow
def test_the_boxes_on_real_pictures_show_what_the_commands_print(
    shared: Path, tmp_path: Path
) -> None:
    maker = make_guide.Maker(tmp_path, shared)
    real = [block for block in BLOCKS if block.needs]
    assert real
    stale = [line for block in real for line in make_guide.differences(block, maker.make(block))]
    assert stale == [], "run make docs, then read the guide again"


def test_every_box_is_marked_with_its_source() -> None:
    assert GUIDE.count("```console") == sum(block.kind != "table" for block in BLOCKS)
    assert GUIDE.count("```text") == 1  # inside a table block
    assert {block.what for block in BLOCKS if block.kind == "table"} == set(make_guide.TABLES)
    assert all(block.text.strip() for block in BLOCKS)


def test_changed_numbers_are_noticed_and_other_times_are_not() -> None:
    line = (
        "5/5 - 0s - loss: 1.4115 - accuracy: 0.2590 - val_loss: 1.4545 - val_accuracy: 0.1379"
        " - lr: 9.0833e-06 - 0s/epoch - 16ms/step"
    )
    weights = "Class weights: {0: 2.58, 1: 0.60, 2: 1.06}"
    block = make_guide.Block("run", "scanwise …", "", True, f"$ scanwise …\n{line}\n{weights}")

    def now(old: str, new: str) -> list[str]:
        changed = block.text.replace(old, new)
        assert changed != block.text
        return make_guide.differences(block, changed)

    assert now("16ms", "230ms") == []
    assert now("1.4545", "1.4601") == []
    assert now("1.4545", "2.4545")
    assert now("2.58", "2.57")
    assert now("5/5", "6/6")
    assert now(line, f"{line}\n{line}")


# Numbers of the text beside the code's


def test_the_presets_are_those_of_the_guide_that_ours_follows() -> None:
    """Its "Key Training Parameters" and "Handling Different Dataset Sizes"."""
    assert [plan(size).epochs for size in SIZES] == [15, 15, 15, 15, 60]
    assert [plan(size).batch_size for size in SIZES] == [8, 16, 32, 64, 32]
    assert [plan(size).lr for size in SIZES] == [5e-5, 1e-4, 1e-4, 1e-3, 4e-3]
    assert 0.3 <= plan("small").dropout <= 0.4
    assert 0.1 <= plan("large").dropout <= 0.2
    assert [plan(size).augment for size in list(SIZES)[:4]] == [
        "strong", "gentle", "gentle", "medium",
    ]  # fmt: skip
    gentle = PRESETS["gentle"]
    assert gentle.flip_horizontal
    assert (gentle.rotation_degrees, gentle.zoom_fraction, gentle.contrast_fraction) == (
        5, 0.05, 0.05,
    )  # fmt: skip


def test_sentences_with_settings_are_those_of_the_plan() -> None:
    small, few, medium, large = (plan(size) for size in list(SIZES)[:4])
    said(
        f"Begin with {medium.epochs}.",
        f"after {medium.patience} epochs without a better validation loss",
        f"{small.batch_size} below 100 pictures in all, {few.batch_size} while a class has fewer "
        f"than 100, then {medium.batch_size}, and {large.batch_size} above 1000 in all",
        f"{medium.lr} is the careful usual value, {small.lr:f}".rstrip("0"),
        f"{large.lr} for many",
        f"A fresh network bears more: {plan('fresh').lr} at its peak",
        f"{small.augment.capitalize()} augmentation, batches of {small.batch_size}, rate 0.00005, "
        f"dropout {small.dropout}.",
        f"{medium.augment.capitalize()} augmentation, batches of {few.batch_size} or "
        f"{medium.batch_size}, rate {medium.lr}, dropout {medium.dropout}, {medium.epochs} epochs.",
        f"{large.augment.capitalize()} augmentation, batches of {large.batch_size}, rate "
        f"{large.lr}, dropout {large.dropout}.",
        f"±{PRESETS['gentle'].rotation_degrees:.0f}° is a slight tilt",
        f"at least {COLLAPSED_SHARE:.0%}".replace("%", " %") + " of the answers are one",
        f"Below {TOO_FEW} independent ones",
        f"At least {GUIDELINE[0]} to {GUIDELINE[1]} pictures each",
    )
    assert PLATEAU_FACTOR == 0.5  # "the rate is halved"
    assert TrainConfig().class_weights is None
    assert (medium.class_weights, plan("fresh").class_weights) == ("balanced", "none")
    assert (medium.scheduler, plan("fresh").scheduler) == ("plateau", "onecycle")


def test_the_weights_of_36_91_and_160_images() -> None:
    counts = np.array([36, 91, 160])
    weights = class_weights(counts, "balanced", ("a", "b", "c"))
    np.testing.assert_allclose(weights, counts.sum() / (3 * counts))
    for line in describe_class_weights(counts, weights):
        assert line in GUIDE
    assert "{0: 2.66, 1: 1.05, 2: 0.60}" in GUIDE


def test_every_other_number_of_the_text_is_accounted_for() -> None:
    """A number is the plan's, stands in a box, or is one of these few words of explanation."""
    explained: dict[str, Any] = {
        "80": "the rule that ours replaces",
        "90": "the example of the healthy ones, under augmentation's table none",
        "95": "confidence of intervals; the share that counts as collapsed",
        "1": "SCANWISE_OFFLINE=1, --seed 1",
        "0.5": "AUROC of chance",
        "0": "class 0; best calibration error",
        "2.63": "of the other guide", "1.04": "of the other guide", "0.59": "of the other guide",
        "18": "5 % of 360 degrees",
        "100": "row of the plan", "1000": "row of the plan",
        "0.00005": "rate of the small row", "0.0001": "rate of the medium row",
    }  # fmt: skip
    boxes = " ".join(block.text for block in BLOCKS)
    known = set(explained) | set(re.findall(r"\d+(?:\.\d+)?", boxes))
    text = re.sub(r"^\d+\. ", "", prose(), flags=re.MULTILINE)  # numbers of list entries
    text = re.sub(r"EfficientNet-B0|resnet\d+|densenet\d+|`D\d{3}`|last:1", "", text)
    unknown = set(re.findall(r"\d+(?:\.\d+)?", text)) - known
    assert unknown == set()


def test_commands_named_in_the_text_exist() -> None:
    from scanwise.cli.commands import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    named = re.findall(r"`scanwise ([a-z-]+)", GUIDE)
    assert set(named) <= verbs
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", GUIDE))
    known = {name.replace("_", "-") for name in TrainConfig.model_fields}
    known |= {f"no-{name}" for name in known}
    assert flags <= known


def test_readme_names_the_guide() -> None:
    assert "(docs/guide.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
