"""Scores by slice of a finished run, from predictions.csv: no new look at the test split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import DataError, RunError, nearest
from scanwise.core.files import sha256_file, write_text
from scanwise.core.types import Dataset, Split
from scanwise.data.metadata import ROW_NUMBER, Place, number_places, read_metadata
from scanwise.metrics.intervals import NUM_RESAMPLES
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.metrics.slices import (
    MIN_IMAGES,
    Cut,
    cut_column,
    judge_slices,
    num_comparisons,
    worst_slice,
)
from scanwise.pipeline.runs import Run, command_line
from scanwise.pipeline.tables import aligned
from scanwise.report.slices_words import p_text, score_cell, signed_cell, worst_sentence

METADATA, SLICES = "metadata.csv", "slices.json"
TITLES = (
    "slice", "n", "share right", "balanced accuracy", "AUROC (macro)",
    "to the rest, within class", "p (Holm)",
)  # fmt: skip
MOST_COLUMNS = 8  # that are sliced without being asked for
Columns = Mapping[str, tuple[str, ...]]


# --- metadata.csv ---------------------------------------------------------------------------------


def write_metadata(run: Run, dataset: Dataset, split: Split) -> None:
    """Write the metadata of validation and test images, so that slices need no other file."""
    columns = {name: cells for name, cells in dataset.metadata.items() if name != ROW_NUMBER}
    if not columns:
        return
    rows = sorted((int(row), name) for name in ("val", "test") for row in split.rows(name))
    samples = [(dataset.sample_ids[row], name) for row, name in rows]
    _write(run, samples, {name: [cells[row] for row, _ in rows] for name, cells in columns.items()})


def _write(
    run: Run, samples: Sequence[tuple[str, str]], columns: Mapping[str, Sequence[str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", "split", *columns])
    for (sample, split), cells in zip(samples, zip(*columns.values(), strict=True), strict=True):
        writer.writerow([sample, split, *cells])
    write_text(run.path / METADATA, text.getvalue())


def read_run_metadata(run: Run, samples: Sequence[str]) -> Columns:
    """Columns of metadata.csv, a cell for each sample; {} where the run has none.

    Raises:
        RunError: If a sample is missing, or the file is not as it was written.
    """
    file = run.path / METADATA
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        header, *lines = list(csv.reader(stream)) or [[]]
    row_of = {cells[0]: cells for cells in lines if len(cells) == len(header)}
    missing = [sample for sample in samples if sample not in row_of]
    if header[:2] != ["sample", "split"] or missing:
        what = f"it lacks '{missing[0]}'" if missing else "its header is another one"
        raise RunError(f"{file} is not as it was written: {what}. `--meta FILE` makes it anew.")
    rows = [row_of[sample] for sample in samples]
    return {name: tuple(cells[at] for cells in rows) for at, name in enumerate(header) if at > 1}


def _joined(run: Run, predictions: Predictions, meta: Path) -> dict[str, tuple[str, ...]]:
    """Columns of a table for all predicted images; those that the run had already stay."""
    known = dict(read_run_metadata(run, predictions.sample))
    found = read_metadata(meta, predictions.sample, _places(run, predictions.sample))
    return {**known, **found}


def _places(run: Run, samples: Sequence[str]) -> list[Place] | None:
    """Delivered split and row of each sample of an array; None where the split was drawn."""
    if run.dataset["split"]["origin"] not in ("official", "user"):
        return None
    with (run.path / "splits.csv").open(encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["path"].split("#")[-1].isdecimal()]
    lines.sort(key=lambda line: int(line["path"].split("#")[-1]))
    places = number_places([line["split"] for line in lines])
    of_sample = {line["path"]: place for line, place in zip(lines, places, strict=True)}
    known = [of_sample[sample] for sample in samples if sample in of_sample]
    return known if len(known) == len(samples) else None


# --- slices ---------------------------------------------------------------------------------------


def measure_slices(
    run: Run, wanted: Sequence[str] = (), meta: Path | None = None
) -> dict[str, Any]:
    """What slices.json says of the judged split (test, else val).

    Args:
        run: A run that was evaluated.
        wanted: Metadata columns; by default all that can be sliced.
        meta: A table to take metadata from, for a run that was trained without.

    Raises:
        DataError: An unknown column, one that can't be sliced, or none.
        RunError: If the run was not evaluated.
    """
    predictions = run_predictions(run)
    part = judged_part(predictions)
    everything = (
        read_run_metadata(run, predictions.sample)
        if meta is None
        else _joined(run, predictions, meta)
    )
    rows = [row for row, name in enumerate(predictions.split) if name == part.split[0]]
    columns = {name: tuple(cells[row] for row in rows) for name, cells in everything.items()}
    if not columns:
        raise DataError(
            f"{run.path} has no metadata to slice by: its data had no further columns. Give them: "
            f"`scanwise evaluate {run.path} --slices COLUMN --meta FILE.csv`."
        )
    for name in wanted:
        if name not in columns:
            raise DataError(
                f"{run.path}/{METADATA} has no column '{name}'; {nearest(name, columns)}"
            )
    document = slices_document(part, columns, wanted)
    if not document["slices"]:
        said = "; ".join(entry["reason"] for entry in document["skipped"])
        raise DataError(f"no column of {run.path}/{METADATA} can be sliced: {said}")
    if meta is not None:
        _write(run, list(zip(predictions.sample, predictions.split, strict=True)), everything)
    return facts_of(run) | document


def slices_document(
    part: Predictions,
    columns: Columns,
    wanted: Sequence[str] = (),
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What slices.json says of one split; with `wanted` a column that can't be sliced is refused.

    Raises:
        DataError: As `cut_column`.
    """
    skipped: list[dict[str, str]] = []
    cuts = [cut_column(name, columns[name]) for name in wanted]
    if not wanted:
        cuts, skipped = _usable(part, columns)
    slices = judge_slices(part, cuts, num_resamples=num_resamples, seed=seed) if cuts else ()
    worst = worst_slice(slices)
    return {
        "split": part.split[0],
        "n": len(part),
        "task": part.task,
        "asked": list(wanted),
        "columns": [{"name": cut.column, "binned": cut.binned} for cut in cuts],
        "skipped": skipped,
        "comparisons": num_comparisons(slices),
        "slices": [part.to_json() for part in slices],
        "worst": None if worst is None else {"column": worst.column, "value": worst.value},
        "min_images": MIN_IMAGES,
        "bootstrap": {
            "resamples": num_resamples,
            "seed": seed,
            "unit": "image" if part.groups is None else "group",
        },
    }


def _usable(part: Predictions, columns: Columns) -> tuple[list[Cut], list[dict[str, str]]]:
    """The columns that can be sliced, and why the others can't."""
    cuts: list[Cut] = []
    skipped = []
    for name, cells in columns.items():
        try:
            if len(cuts) == MOST_COLUMNS:
                raise DataError(f"{MOST_COLUMNS} columns are sliced unasked; name it in --slices.")
            cut = cut_column(name, cells)
            if np.bincount(cut.member).max() < MIN_IMAGES:
                raise DataError(f"column '{name}': no value has {MIN_IMAGES} images.")
            if _tells_class(part, cut):
                raise DataError(f"column '{name}' is the class in other words.")
            cuts.append(cut)
        except DataError as error:
            skipped.append({"column": name, "reason": str(error)})
    return cuts, skipped


def _tells_class(part: Predictions, cut: Cut) -> bool:
    """Whether all images of each slice are of one class."""
    if part.task == "multilabel":
        return False
    return all(len(np.unique(part.targets[cut.member == s])) == 1 for s in range(len(cut.values)))


# --- what groups.json shares ----------------------------------------------------------------------


def run_predictions(run: Run) -> Predictions:
    """predictions.csv with groups.

    Raises:
        RunError: If the run was not evaluated.
    """
    file = run.path / "predictions.csv"
    if not file.is_file():
        raise RunError(
            f"{run.path} has no predictions.csv: it was not evaluated; `scanwise evaluate "
            f"{run.path}` does it."
        )
    return read_predictions(file, run.path / "splits.csv", task=run.dataset.get("task"))


def judged_part(predictions: Predictions) -> Predictions:
    return predictions.of_split("test" if "test" in predictions.split else "val")


def facts_of(run: Run) -> dict[str, Any]:
    return {
        "schema": 1,
        "run": run.path.name,
        "command": command_line(),
        "split_sha256": sha256_file(run.path / "splits.csv"),
    }


def slices_text(document: Mapping[str, Any]) -> str:
    """slices.json as a table for the terminal."""
    task, split = document["task"], document["split"]
    right = "label_accuracy" if task == "multilabel" else "accuracy"
    rows: list[tuple[str, ...]] = [TITLES]
    for part in document["slices"]:
        scores = [
            score_cell(part[key]) + ("" if part["ranked"] else "*")
            for key in (right, "balanced_accuracy", "auroc_macro")
        ]
        gap = signed_cell(part["difference_within_class"])
        name = f"{part['column']}: {part['value']}"
        rows.append((name, f"{part['n']:,}", *scores, gap, p_text(part)))
    lines = [
        f"{split} (n = {document['n']:,}) by slice, with 95 % intervals",
        aligned(rows),
        *([f"* n < {MIN_IMAGES}: not ranked"] if any(not p["ranked"] for p in document["slices"])
          else []),
        *(f"not sliced: {entry['reason']}" for entry in document["skipped"]),
        worst_sentence(document),
    ]  # fmt: skip
    return "\n".join(lines)
