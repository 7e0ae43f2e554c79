"""`scanwise summary`: one results folder of many runs, every number of it measured.

training_results/
  <dataset>/plots/<run>/    the run's figures
  <dataset>/metrics/<run>/  its numbers, and the files that they follow from
  <dataset>/models/<run>/   its bundle, compared with its hashes
  model_comparison.png
  TRAINING_SUMMARY.md

The folder stands alone: `verify_summary` computes every number anew from what lies in it.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanwise.core.errors import IntegrityError, RunError
from scanwise.core.files import write_text
from scanwise.deploy.bundle import check_sums
from scanwise.metrics.verify import Mismatch
from scanwise.pipeline.runs import SUMMARY_PAGE, check_output_free
from scanwise.pipeline.tables import aligned
from scanwise.report.style import save_png
from scanwise.report.summary_plot import plot_summary
from scanwise.studies.run_set import DataSet, RunEntry, read_entry, read_runs
from scanwise.studies.summary_findings import majority_words
from scanwise.studies.summary_page import (
    PARTS,
    PICTURE,
    Summary,
    make_summary,
    method_name,
    picture_alt,
    picture_groups,
    status_words,
    summary_text,
)

# What a run's numbers and words follow from.
COPIED = (
    "config.yaml", "plan.yaml", "env.json", "dataset.json", "training.json", "history.csv",
    "splits.csv", "predictions.csv", "metrics.json", "report.json", "test_ledger.csv",
)  # fmt: skip


def write_summary(paths: Sequence[Path], output: Path, *, force: bool = False) -> Summary:
    """Write the results folder of all runs at and below `paths`: whole, or not at all.

    Raises:
        RunError: A path that holds no run; an output that exists (without `force`), is not a
            results folder, or holds one of the runs.
        IntegrityError: A number of a run that does not follow from its predictions, an edited
            report.json, or a bundle that is not what was saved.
    """
    check_output_free(output, force, markers=(SUMMARY_PAGE,), what="summary")
    runs = read_runs(paths)
    _check_apart(runs, output)
    summary = make_summary(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".summary-") as name:
        folder = Path(name) / "results"
        folder.mkdir()
        for data in summary.data_sets:
            _copy_data(data, folder / data.folder)
        save_png(plot_summary(picture_groups(summary)), folder / PICTURE, picture_alt(summary))
        write_text(folder / SUMMARY_PAGE, summary_text(summary, list(_tree(folder))))
        _put_in_place(folder, output, Path(name) / "old")
    return summary


def _check_apart(runs: Sequence[RunEntry], output: Path) -> None:
    """A results folder that is replaced must not take a run with it, nor lie in one."""
    place = output.resolve()
    for run in runs:
        path = run.files.path.resolve()
        if path.is_relative_to(place) or place.is_relative_to(path):
            raise RunError(
                f"the output {output} and the run {run.files.path} lie in each other; name another "
                "output."
            )


def _put_in_place(folder: Path, output: Path, old: Path) -> None:
    if output.exists():
        os.rename(output, old)
    os.rename(folder, output)


def _copy_data(data: DataSet, folder: Path) -> None:
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    for run in data.runs:
        plots = run.files.path / "plots"
        if plots.is_dir():
            shutil.copytree(plots, folder / "plots" / run.name)
        _copy_numbers(run, folder / "metrics" / run.name)
        if run.is_finished:
            _copy_bundle(run, folder / "models" / run.name)


def _copy_numbers(run: RunEntry, folder: Path) -> None:
    folder.mkdir()
    for name in COPIED:
        if (run.files.path / name).is_file():
            shutil.copyfile(run.files.path / name, folder / name)
    if (run.files.path / "baselines").is_dir():
        shutil.copytree(run.files.path / "baselines", folder / "baselines")
    if run.is_finished:
        write_text(folder / "metrics.csv", metrics_csv(run.files.metrics))


def _copy_bundle(run: RunEntry, folder: Path) -> None:
    """Copy, then compare the copy with the hashes: wrong bytes on either side are seen."""
    shutil.copytree(run.files.path / "bundle", folder)
    try:
        check_sums(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{run.files.path / 'bundle'}: {error}") from error


def metrics_csv(metrics: Mapping[str, Any]) -> str:
    """metrics.json as a table: split,class,metric,value,low,high,n,reason; "" is all classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "class", "metric", "value", "low", "high", "n", "reason"])
    for split, result in metrics["splits"].items():
        entries = [("", result), *((entry["name"], entry) for entry in result["per_class"])]
        for name, entry in entries:
            for metric, cell in entry.items():
                if isinstance(cell, Mapping) and "value" in cell:
                    low, high = cell.get("ci95") or ("", "")
                    value = "" if cell["value"] is None else cell["value"]
                    why = cell.get("reason") or cell.get("note") or ""
                    writer.writerow([split, name, metric, value, low, high, entry["n"], why])
    return text.getvalue()


def _tree(folder: Path) -> Iterator[str]:
    """'octmnist/plots/run', … as they lie there, each data set with its three parts."""
    for data in sorted(path for path in folder.iterdir() if path.is_dir()):
        for part in PARTS:
            yield f"{data.name}/{part}"
            for run in sorted((data / part).iterdir()):
                yield f"{data.name}/{part}/{run.name}"


# Checking.


@dataclass(frozen=True)
class SummaryCheck:
    """What in a results folder does not follow from its files."""

    folder: Path
    mismatches: tuple[Mismatch, ...]
    checked: int  # lines of the page

    def text(self) -> str:
        if not self.mismatches:
            return (
                f"{self.folder}: all {self.checked} lines of {SUMMARY_PAGE} follow from the "
                "predictions and files below it, and every bundle has its hashes. "
                "Pictures are not checked."
            )
        lines = [f"{self.folder}: {len(self.mismatches)} differ:"]
        return "\n".join([*lines, *(f"  {bad}" for bad in self.mismatches)])

    def to_json(self) -> dict[str, Any]:
        return {
            "summary": str(self.folder),
            "checked": self.checked,
            "mismatches": [
                {"where": bad.where, "stated": bad.stated, "recomputed": bad.recomputed}
                for bad in self.mismatches
            ],
        }


def verify_summary(folder: Path) -> SummaryCheck:
    """Compute every run's numbers anew from its predictions.csv, and the page from these.

    Raises:
        RunError: If it is no results folder, or a file in it can't be read.
    """
    if not (folder / SUMMARY_PAGE).is_file():
        raise RunError(
            f"{folder} is no results folder of `scanwise summary` (it has no {SUMMARY_PAGE})."
        )
    found: list[Mismatch] = []
    runs = []
    for numbers in sorted(folder.glob("*/metrics/*/")):
        bundle = numbers.parents[1] / "models" / numbers.name
        where = str(numbers.relative_to(folder))
        try:
            runs.append(read_entry(numbers, numbers.name, bundle))
            if bundle.is_dir():
                check_sums(bundle)
            if runs[-1].is_finished:
                found += _differing_table(numbers, runs[-1], where)
        except IntegrityError as error:
            found.append(Mismatch(where, "as it was written", str(error)))
    stated = (folder / SUMMARY_PAGE).read_text(encoding="utf-8")
    if not found:  # else the page differs too, and that is no news
        truth = summary_text(make_summary(runs), list(_tree(folder)))
        found += _differing_lines(stated, truth)
    return SummaryCheck(folder, tuple(found), len(stated.splitlines()))


def _differing_table(numbers: Path, run: RunEntry, where: str) -> Iterator[Mismatch]:
    file = numbers / "metrics.csv"
    stated = file.read_text(encoding="utf-8") if file.is_file() else ""
    for bad in _differing_lines(stated, metrics_csv(run.files.metrics)):
        yield Mismatch(f"{where}/metrics.csv {bad.where}", bad.stated, bad.recomputed)


def _differing_lines(stated: str, truth: str) -> Iterator[Mismatch]:
    """Lines that differ, by number; a missing or added one is None on one side."""
    left, right = stated.splitlines(), truth.splitlines()
    for number in range(max(len(left), len(right))):
        pair = [lines[number] if number < len(lines) else None for lines in (left, right)]
        if pair[0] != pair[1]:
            yield Mismatch(f"line {number + 1}", *pair)


# The terminal.


def summary_overview(summary: Summary, output: Path) -> str:
    """What the terminal shows: the table, the findings, where the rest is."""
    rows = [("method", "data", "seed", "test accuracy [95 %]", "n", "majority", "verdict", "run")]
    for data in summary.data_sets:
        for run in data.runs:
            scored = run.test is not None
            rows.append(
                (
                    method_name(data, run),
                    data.folder,
                    "-" if run.seed is None else str(run.seed),
                    str(run.score("accuracy")) if scored else "not measured",
                    f"{run.test['n']:,}" if run.test else "-",
                    majority_words(run).partition(",")[0] if scored else "-",
                    run.verdict if run.is_finished else status_words(run).partition(" ")[2],
                    run.name,
                )
            )
    lines = [aligned(rows), ""]
    lines += [f"{finding.title}: {finding.text}" for finding in summary.findings]
    lines += ["", f"summary: {output / SUMMARY_PAGE}", f"picture: {output / PICTURE}"]
    return "\n".join(lines)
