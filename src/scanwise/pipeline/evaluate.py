"""From a trained bundle to predictions.csv, metrics.json and the gallery of mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.config import TrainConfig
from scanwise.core.types import SPLIT_NAMES, Dataset, Split, SplitName
from scanwise.data.checks import CheckReport
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.calibration import Calibration, not_calibrated
from scanwise.metrics.evaluate import (
    calibration_document,
    evaluate_predictions,
    metrics_document,
)
from scanwise.metrics.medmnist import write_medmnist_csv
from scanwise.metrics.predictions import Predictions, make_predictions, write_predictions
from scanwise.pipeline.baselines import (
    Baseline,
    baselines_document,
    predict_baselines,
    read_baselines,
    write_baselines,
)
from scanwise.pipeline.decisions import decide
from scanwise.pipeline.errors import write_errors
from scanwise.pipeline.members import members_document
from scanwise.pipeline.parts import measure_parts
from scanwise.pipeline.runs import Run, command_line
from scanwise.pipeline.slices import write_metadata
from scanwise.pipeline.surroundings import look_around
from scanwise.pipeline.views import answer_one_view

MEAN_OF_CALIBRATED = "the mean of its members' calibrated probabilities is not calibrated again"


def evaluate_run(
    run: Run,
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    report: CheckReport,
    bundle: Bundle,
    calibration: Calibration | None,
    *,
    baselines: tuple[Baseline, ...] = (),
    baseline_titles: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> None:
    """Score validation and (unless --no-test) test once, and write what follows from the scores.

    The look at test is in the ledger before the first test image is read. An ensemble has no
    `calibration`; `baseline_titles` names the simple models whose answers lie in the run already.
    """
    names: list[SplitName] = ["val"] if len(split.val) else []
    if len(split.test) and not config.no_test:
        looks = run.record_test_look()
        run.log(f"test split opened: look number {looks}")
        names.append("test")
    if not names:
        _save(run, dataset, bundle, _unmeasured(run, dataset, split, report))
        return
    predictions, features = predict_with_features(bundle, dataset, split, names, device)
    write_predictions(run.path / "predictions.csv", predictions)
    metrics = _metrics(run, dataset, split, report, predictions, calibration)
    metrics |= _beside_baselines(
        run, dataset, split, bundle, predictions, names, baselines, baseline_titles
    )
    metrics |= members_document(run, predictions)
    rows = _rows(split, names)
    metrics |= answer_one_view(run, bundle, dataset, rows, predictions, device)
    _write_medmnist_files(run, dataset, split, predictions, names)
    decide(run, predictions, metrics, bundle)
    look_around(
        run, dataset, split, bundle, predictions, features,
        search=config.report, device=device, seed=config.seed,
    )  # fmt: skip
    _save(run, dataset, bundle, metrics)
    write_metadata(run, dataset, split)
    if config.report:
        measure_parts(run)
        write_errors(run, dataset, split, predictions, "test" if "test" in names else "val")


def _save(run: Run, dataset: Dataset, bundle: Bundle, metrics: dict[str, Any]) -> None:
    run.write("metrics.json", metrics)
    bundle.metrics = metrics
    bundle.model_card = model_card(bundle, metrics, dataset)
    bundle.save_pretrained(run.bundle)


def _unmeasured(run: Run, dataset: Dataset, split: Split, report: CheckReport) -> dict[str, Any]:
    """metrics.json where no image is left to score: facts, and no split."""
    document = metrics_document(
        _dataset_facts(dataset),
        split.sha256,
        {},
        run=run.path.name,
        command=command_line(),
        leaky=report.leaky,
        test_looks=len(run.test_looks()),
    )
    return document | members_document(run, None)


def _rows(split: Split, names: list[SplitName]) -> NDArray[np.int64]:
    """Of all images in the named splits, in input order."""
    return np.sort(np.concatenate([split.rows(name) for name in names]))


def predict_with_features(
    bundle: Bundle, dataset: Dataset, split: Split, names: list[SplitName], device: str
) -> tuple[Predictions, NDArray[np.float32] | None]:
    """Answers of the bundle itself for the named splits, rows in input order.

    And the features (n, d) of the same pass; None where there are none.
    """
    rows = _rows(split, names)
    of_row = {int(row): name for name in names for row in split.rows(name)}
    probabilities, features = bundle.answers_of_rows(dataset, rows, device=device)
    predictions = make_predictions(
        sample=tuple(dataset.sample_ids[row] for row in rows),
        split=tuple(of_row[int(row)] for row in rows),
        targets=dataset.targets[rows],
        probabilities=probabilities,
        class_names=dataset.class_names,
        task=dataset.task,
        groups=None if dataset.groups is None else tuple(dataset.groups[row] for row in rows),
    )
    return predictions, features


def _beside_baselines(
    run: Run,
    dataset: Dataset,
    split: Split,
    bundle: Bundle,
    predictions: Predictions,
    names: list[SplitName],
    baselines: tuple[Baseline, ...],
    known_titles: Mapping[str, str] | None,
) -> dict[str, Any]:
    """`baselines` of metrics.json; those of an earlier evaluation where none are handed in."""
    if baselines:
        rows = _rows(split, names)
        said = predict_baselines(baselines, dataset, bundle.preprocessing, predictions, rows)
        write_baselines(run, said)
        titles: Mapping[str, str] = {baseline.name: baseline.title for baseline in baselines}
    else:
        said = read_baselines(run, predictions)
        known = run.known_baselines()
        titles = known_titles or {name: entry["title"] for name, entry in known.items()}
    return {"baselines": baselines_document(predictions, said, titles)} if said else {}


def _metrics(
    run: Run,
    dataset: Dataset,
    split: Split,
    report: CheckReport,
    predictions: Predictions,
    calibration: Calibration | None,
) -> dict[str, Any]:
    """metrics.json: every number with its interval; the clean part of a leaky test beside it."""
    baseline: dict[str, Any] = {
        "train_counts": dataset.class_counts(split.train),
        "train_images": len(split.train),
    }
    names = [name for name in SPLIT_NAMES if name in predictions.split]
    parts: dict[str, dict[str, Any]] = {
        name: evaluate_predictions(predictions, name, **baseline) for name in names
    }
    leaked = [dataset.sample_ids[row] for row in report.leaked["test"]]
    clean = {}
    if "test" in names and 0 < len(leaked) < len(split.test):
        clean["test"] = evaluate_predictions(predictions, "test", excluded=leaked, **baseline)
    if calibration is None and "val" in names:
        val = predictions.of_split("val")
        calibration = not_calibrated(val.probabilities, val.targets, val.task, MEAN_OF_CALIBRATED)
    return metrics_document(
        _dataset_facts(dataset),
        split.sha256,
        parts,
        clean_splits=clean or None,
        calibration=None if calibration is None else calibration_document(calibration, predictions),
        run=run.path.name,
        command=command_line(),
        leaky=report.leaky,
        test_looks=len(run.test_looks()),
    )


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "source": dataset.provenance.source,
        "n": len(dataset),
        "task": dataset.task,
        "class_names": list(dataset.class_names),
        "synthetic": dataset.provenance.synthetic,
        "benchmark": dataset.provenance.benchmark,
    }


def _write_medmnist_files(
    run: Run,
    dataset: Dataset,
    split: Split,
    predictions: Predictions,
    names: list[SplitName],
) -> None:
    """Files that MedMNIST's own evaluator reads, where the split is the official one."""
    if dataset.provenance.benchmark is None or split.origin != "official":
        return
    for name in names:
        part = predictions.of_split(name)
        write_medmnist_csv(
            run.path / "medmnist",
            dataset.provenance.benchmark,
            dataset.size_px[0],
            name,
            part.targets,
            part.probabilities,
            part.task,
            run.path.name,
        )


def model_card(bundle: Bundle, metrics: dict[str, Any], dataset: Dataset) -> str:
    """MODEL_CARD.md: what the model is, what it is for and not for, and what was measured."""
    config = bundle.config
    lines = [
        f"# {config.architecture} on {dataset.name}",
        "",
        "**Research software, not a medical device. Not for clinical use.**",
        "",
        "## Model",
        "",
        f"- Task: {config.task}; classes: {', '.join(config.class_names)}",
        f"- Trained on: {config.trained_on} ({metrics['dataset']['n']:,} images in all splits)",
        f"- Input: {bundle.input_text()}",
        f"- Split: {metrics['split_sha256'] or 'not saved'}",
        f"- Made by scanwise {config.scanwise_version}",
    ]
    if config.synthetic:
        lines.append("- The images are synthetic; nothing here says anything about real ones.")
    if dataset.provenance.licence:
        lines.append(f"- Licence of the data: {dataset.provenance.licence}")
    if metrics.get("leaky"):
        lines.append("- The splits share images (leaky): the scores are too good.")
    return "\n".join([*lines, "", *USE, "## What was measured", "", *_measured(metrics)]) + "\n"


USE = (
    "## Intended use",
    "",
    "- For research and teaching: to classify images like those it was trained on, and to be "
    "compared with other models.",
    "- Not for diagnosis, treatment or any decision about a person. That needs a study on the "
    "population and devices of its use, and the approval of the authorities there.",
    "- Not for images of another kind: it answers these too, and wrongly.",
    "- To be said by its author: population, devices and readers behind the data; known gaps.",
    "",
)


def _measured(metrics: dict[str, Any]) -> list[str]:
    """The headline scores of each split with their intervals, and each class's sensitivity."""
    if not metrics["splits"]:
        return ["Not measured: no image is left to score it on."]
    lines = ["| split | n | accuracy [95 %] | balanced accuracy [95 %] | AUROC [95 %] |"]
    lines.append("|---|---|---|---|---|")
    for name, part in metrics["splits"].items():
        cells = [_cell(part[key]) for key in ("accuracy", "balanced_accuracy", "auroc_macro")]
        lines.append(f"| {name} | {part['n']} | {' | '.join(cells)} |")
    name = "test" if "test" in metrics["splits"] else "val"
    lines += ["", f"| class ({name}) | n | sensitivity [95 %] | specificity [95 %] |"]
    lines.append("|---|---|---|---|")
    for entry in metrics["splits"][name]["per_class"]:
        cells = [_cell(entry[key]) for key in ("sensitivity", "specificity")]
        lines.append(f"| {entry['name']} | {entry['n']} | {' | '.join(cells)} |")
    return lines


def _cell(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return f"not evaluable ({entry['reason']})"
    low, high = entry.get("ci95") or (None, None)
    interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{entry['value']:.3f}{interval}"
