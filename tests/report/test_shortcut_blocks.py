"""Banners and the table of shortcuts, from what dataset.json holds."""

from __future__ import annotations

import pytest

from scanwise.core.types import Finding
from scanwise.report.blocks import Paragraph, Table
from scanwise.report.shortcut_blocks import data_banners, shortcut_block

AREA = {"value": 0.97, "ci95": [0.95, 0.98]}
PROBE = {
    "family": "border",
    "auroc_macro": AREA,
    "carriers": {
        "ill": {"feature": "top edge 1 of 8", "auroc": 0.8},
        "well": {"feature": "top left corner", "auroc": 0.99},
    },
}


def test_the_table_names_the_feature_and_sets_the_model_beside() -> None:
    model = {"n": 50, "auroc_macro": {"value": 0.91, "ci95": [0.85, 0.95]}}
    block = shortcut_block({"shortcuts": {"n": 120, "probes": [PROBE]}}, model)
    assert isinstance(block, Table)
    assert block.rows[0][1:] == ("0.970 [0.950, 0.980]", "120", "top left corner: 0.990 for 'well'")
    assert block.rows[1][:3] == ("The trained model", "0.910 [0.850, 0.950]", "50")


@pytest.mark.parametrize(
    ("checks", "words"),
    [({}, "not measured"), ({"shortcuts": {"probes": [], "reason": "too few"}}, "too few")],
)
def test_without_probes_the_sentence_says_why(checks: dict, words: str) -> None:
    block = shortcut_block(checks)
    assert isinstance(block, Paragraph)
    assert words in block.text


def test_a_shortcut_is_red_and_unused_groups_are_a_caution() -> None:
    found = data_banners(
        [
            Finding("D012", "warning", "shortcut: the border tells 'ill'."),
            Finding("D013", "warning", "names look like 40 groups."),
            Finding("D013", "info", "names look like groups; 0 are cut."),
            Finding("D014", "warning", "two ways."),
            Finding("D006", "info", "copies."),
        ]
    )
    assert [(each.level, each.title) for each in found] == [
        ("stop", "SHORTCUT"),
        ("warn", "GROUPS UNKNOWN"),
        ("warn", "GROUPS UNKNOWN"),
    ]
    assert found[0].text == "The border tells 'ill'."
