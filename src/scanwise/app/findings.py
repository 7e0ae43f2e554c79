"""Findings of a check in plain words: what it is called, and how bad it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanwise.app.progress import read_json
from scanwise.core.types import Finding
from scanwise.report.check_page import all_findings

# What a code means to somebody who has never heard of it.
TITLES = {
    "D001": "Files that can't be read",
    "D002": "Too few images to learn or judge a class",
    "D003": "How many images each class has",
    "D004": "The same picture in training and test (a leak)",
    "D005": "The same picture with two labels (a conflict)",
    "D006": "The same picture more than once (copies)",
    "D007": "One patient or slide in training and test (a leak)",
    "D008": "Pictures unlike the rest of their class (outliers)",
    "D009": "A label that no training image has",
    "D010": "Groups and splits disagree",
    "D011": "No images are left for a test",
    "D012": "The answer can be told without looking at the subject (a shortcut)",
    "D013": "File names look like patients or slides (groups)",
    "D014": "File names may mean patients or slides (groups)",
    "N001": "Made-up pictures (synthetic data)",
    "R001": "System files were left out",
    "R002": "Files that are no images were left out",
    "R003": "Images outside any class were left out",
    "R004": "Images were brought to one size",
    "R005": "Transparent images",
    "R006": "Turned images",
    "R007": "File names that say another format",
    "R009": "16-bit files that hold 8-bit images",
}
SEVERITY_WORDS = {"error": "must be solved", "warning": "look at this", "info": "good to know"}


def read_findings(check: Path) -> tuple[Finding, ...]:
    """Findings and notes of a check folder, worst first."""
    data = read_json(check / "dataset.json")
    return all_findings(data.get("checks") or {}, data)


def title_of(finding: Finding) -> str:
    return TITLES.get(finding.code, "Note")


def class_rows(data: Mapping[str, Any]) -> list[tuple[str, int, int, int]]:
    """Class, and its images in training, validation and test."""
    counts = data.get("counts") or {}
    names = data.get("class_names") or []
    parts = [counts.get(split) or [0] * len(names) for split in ("train", "val", "test")]
    return [(str(name), *map(int, row)) for name, *row in zip(names, *parts, strict=True)]  # type: ignore[misc]
