"""`scanwise check DATA`: everything the main path looks at before training, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanwise.core.config import TrainConfig
from scanwise.core.files import write_json
from scanwise.core.types import Dataset, Split
from scanwise.data.checks import CheckReport
from scanwise.data.duplicates import split_of_row
from scanwise.data.fingerprint import dataset_fingerprint
from scanwise.data.splits import write_splits
from scanwise.pipeline.runs import check_output_free
from scanwise.pipeline.tables import class_table
from scanwise.pipeline.train import find_trouble, load_data
from scanwise.report.data_plots import write_check_page, write_data_plots

SYMBOL = {"error": "STOP", "warning": "warn", "info": "note"}


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What was looked at, and what was found."""

    dataset: Dataset
    split: Split
    report: CheckReport

    def to_json(self) -> dict[str, Any]:
        facts = dataset_fingerprint(self.dataset, self.split)
        facts["notes"] = [note.to_json() for note in self.dataset.notes]
        facts["checks"] = self.report.to_json()
        return facts


def check_data(config: TrainConfig, output: Path | None) -> CheckResult:
    """Check a data set; with `output`, write the page, its plots and dataset.json.

    Raises:
        RunError: If `output` holds something already.
        DataError: If the data can't be loaded or split at all.
    """
    if output is not None:
        check_output_free(output, config.force)
    dataset = load_data(config)
    dataset, split, report = find_trouble(dataset, config)
    result = CheckResult(dataset, split, report)
    if output is not None:
        _write(result, output)
    return result


def _write(result: CheckResult, output: Path) -> None:
    """Write the folder beside its place, then move it there: whole or absent."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".check-") as name:
        folder = Path(name) / "check"
        folder.mkdir()
        write_splits(folder / "splits.csv", result.dataset, result.split)
        facts = result.to_json()
        write_json(folder / "dataset.json", facts)
        plots = write_data_plots(result.dataset, result.split, folder)
        write_check_page(
            folder,
            facts["checks"],
            facts,
            plots,
            dataset=result.dataset,
            split=result.split,
            examples=_examples(result),
        )
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)


def _examples(result: CheckResult) -> dict[str, list[list[int]]]:
    """Rows to show as thumbnails: copies side by side, then the strangest images."""
    where = split_of_row(result.split, len(result.dataset))
    clusters = [rows.tolist() for rows in result.report.duplicates.clusters]
    crossing = [rows for rows in clusters if len({int(where[row]) for row in rows}) > 1]
    within = [rows for rows in clusters if rows not in crossing]
    shown = {
        "The same picture in two splits": crossing,
        "Copies within a split": within,
        "Unlike the rest of their class": [[each.row] for each in result.report.quality.outliers],
    }
    return {caption: groups for caption, groups in shown.items() if groups}


def check_summary(result: CheckResult, output: Path | None) -> str:
    """What the terminal shows: one block of facts, then the findings, worst first."""
    dataset, split = result.dataset, result.split
    height, width = dataset.size_px
    lines = [
        f"{dataset.name}: {len(dataset):,} images, {height}x{width}x{dataset.channels} "
        f"{dataset.images.dtype}, {dataset.task}, {dataset.provenance.source}",
        f"split ({split.origin}): train {len(split.train):,}, val {len(split.val):,}, "
        f"test {len(split.test):,}; {split.note}",
        class_table(dataset, split),
    ]
    findings = [*dataset.notes, *result.report.findings]
    order = {"error": 0, "warning": 1, "info": 2}
    for finding in sorted(findings, key=lambda found: order[found.severity]):
        lines.append(f"[{SYMBOL[finding.severity]}] {finding.code} {finding.evidence}")
        if finding.advice:
            lines.append(f"       -> {finding.advice}")
        if finding.command:
            lines.append(f"       $ {finding.command}")
    if output is not None:
        lines.append(f"page: {output / 'check.html'}")
    return "\n".join(lines)
