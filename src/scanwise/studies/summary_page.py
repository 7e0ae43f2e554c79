"""TRAINING_SUMMARY.md: the seed's sections, filled from runs and from nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from scanwise import __version__
from scanwise.core.types import SPLIT_NAMES
from scanwise.data.medmnist_table import MEDMNIST
from scanwise.metrics.compare import p_words
from scanwise.pipeline.runs import SUMMARY_PAGE
from scanwise.report.pages import NOT_A_DEVICE, code_text, count_text, markdown_text
from scanwise.report.run_files import finding_of, worst_first
from scanwise.report.summary_plot import RunGroup, ScoredRun
from scanwise.report.verdict import as_interval, caution_text, trivial_value
from scanwise.studies.run_set import DataSet, RunEntry, confounding_words, group_runs
from scanwise.studies.summary_findings import (
    Comparison,
    KeyFinding,
    compare_methods,
    key_findings,
    majority_words,
    part_title,
)

PICTURE = "model_comparison.png"
PARTS = ("plots", "metrics", "models")
MAX_STEPS = 10
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Step:
    """Something to try next, as a run's own report put it."""

    run: str
    text: str
    command: str

    def to_json(self) -> dict[str, str]:
        return {"run": self.run, "text": self.text, "command": self.command}


@dataclass(frozen=True, eq=False)
class Summary:
    """All that the page says."""

    data_sets: tuple[DataSet, ...]
    comparisons: tuple[Comparison, ...]
    findings: tuple[KeyFinding, ...]
    steps: tuple[Step, ...]

    @property
    def runs(self) -> tuple[RunEntry, ...]:
        return tuple(run for data in self.data_sets for run in data.runs)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "scanwise": __version__,
            "medical_device": False,
            "datasets": [_data_json(data) for data in self.data_sets],
            "runs": [_run_json(data, run) for data in self.data_sets for run in data.runs],
            "comparisons": [each.to_json() for each in self.comparisons],
            "findings": [each.to_json() for each in self.findings],
            "next_steps": [each.to_json() for each in self.steps],
        }


def make_summary(runs: Sequence[RunEntry]) -> Summary:
    """Group, compare and put into words."""
    data_sets = group_runs(runs)
    parts = [(data, part) for data in data_sets for part in data.test_sets]
    comparisons = tuple(each for data, part in parts for each in compare_methods(data, part))
    return Summary(data_sets, comparisons, key_findings(data_sets, comparisons), _steps(data_sets))


def _steps(data_sets: Sequence[DataSet]) -> tuple[Step, ...]:
    """What the runs themselves advise with a command: each run's first, then each run's second …

    Each command stands once.
    """
    advised = [list(_steps_of_run(run)) for data in data_sets for run in data.runs]
    once: dict[str, Step] = {}
    for turn in zip_longest(*advised):
        for step in turn:
            if step is not None:
                once.setdefault(step.command, step)
    return tuple(once.values())


def _steps_of_run(run: RunEntry) -> Iterator[Step]:
    place = str(run.files.config.get("output") or f"runs/{run.name}")
    if not run.is_finished:
        command = shlex.join(["scanwise", "train", "--resume", place])
        yield Step(run.name, "The run was interrupted; this finishes it.", command)
    elif run.test is None and _test_images(run):
        command = shlex.join(["scanwise", "evaluate", place])
        yield Step(run.name, "Test was not opened; this scores it once.", command)
    for row in run.report.get("recommendations") or ():
        if row["command"]:
            yield Step(run.name, f"{row['title']}: {row['evidence']}", row["command"])
    for finding in worst_first(finding_of(row) for row in run.report.get("findings") or ()):
        if finding.command:
            yield Step(run.name, f"{finding.evidence} {finding.advice}".strip(), finding.command)


def _test_images(run: RunEntry) -> int:
    return int(((run.files.dataset.get("split") or {}).get("n") or {}).get("test") or 0)


# The page.


def summary_text(summary: Summary, tree: Sequence[str]) -> str:
    """The whole page.

    Args:
        summary: What was found.
        tree: Folders below the results folder, "octmnist/plots" and so on, in order.
    """
    sections = (
        ("Overview", _overview(summary)),
        ("Dataset Information", _data_section(summary)),
        ("Model Performance", _performance(summary)),
        ("Training Configuration", _configuration(summary)),
        ("Key Findings", _findings(summary)),
        ("Next Steps", _next_steps(summary)),
        ("File Structure", _file_structure(tree)),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    return f"# Medical Imaging AI Training Results Summary\n\n{body}\n"


def _overview(summary: Summary) -> str:
    runs = summary.runs
    finished = sum(run.is_finished for run in runs)
    scored = sum(run.test is not None for run in runs)
    counts = (
        f"{_plural(len(runs), 'run')} on {_plural(len(summary.data_sets), 'data set')}: "
        f"{finished} finished, {scored} scored on test."
    )
    lines = [
        f"This document summarizes {counts} Every number was measured by these runs and follows "
        "from their `predictions.csv`; `scanwise verify-report FOLDER` computes each anew.",
        f"**{NOT_A_DEVICE}**",
    ]
    synthetic = [
        markdown_text(data.title) for data in summary.data_sets if data.facts.get("synthetic")
    ]
    if synthetic:
        lines.append(
            f"**Synthetic data** ({', '.join(synthetic)}): made by a computer. Nothing here says "
            "anything about real images of that kind."
        )
    lines.append(f"Written by scanwise {__version__}.")
    return "\n\n".join(lines)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data_section(summary: Summary) -> str:
    rows = [
        (
            markdown_text(data.title),
            markdown_text(data_description(data.facts)),
            count_text(data.facts.get("n")),
            _split_words(data),
            str(len(data.facts.get("class_names") or ())) or NOT_MEASURED,
        )
        for data in summary.data_sets
    ]
    columns = ("Dataset", "Description", "Samples", "Train / val / test", "Classes")
    notes = [f"- {note}" for data in summary.data_sets for note in _data_notes(data)]
    return "\n\n".join([_table(columns, rows), *(["\n".join(notes)] if notes else [])])


def data_description(facts: Mapping[str, Any]) -> str:
    """What the images are, as far as it is known: 'Chest X-ray; one class an image; 28×28 px, …'"""
    known = MEDMNIST.get(str(facts.get("benchmark") or ""))
    tasks = {
        "multiclass": "one class an image",
        "multilabel": "several labels an image",
        "ordinal": "one grade an image",
    }
    image = facts.get("image") or {}
    channels = image.get("channels")
    size = (
        f"{image['height']}×{image['width']} px, {_plural(int(channels or 0), 'channel')}"
        if image.get("height")
        else ""
    )
    what = known.modality if known else f"from {facts.get('source') or 'an unknown source'}"
    parts = [what, tasks.get(str(facts.get("task")), ""), size]
    return "; ".join(part for part in parts if part)


def _split_words(data: DataSet) -> str:
    """Images by split, once where all runs share them."""
    found = []
    for run in data.runs:
        sizes = (run.files.dataset.get("split") or {}).get("n") or {}
        words = " / ".join(f"{sizes[name]:,}" for name in SPLIT_NAMES if name in sizes)
        if words and words not in found:
            found.append(words)
    return " or ".join(found) or NOT_MEASURED


def _data_notes(data: DataSet) -> list[str]:
    """Split, hash and licence: what decides how far the scores can be believed."""
    facts, name = data.facts, markdown_text(data.title)
    origins = {str((r.files.dataset.get("split") or {}).get("origin")) for r in data.runs}
    notes = [f"{name}: split {' or '.join(sorted(origins))}"]
    if facts.get("verified") is not None:
        notes[0] += (
            ", file verified by its published hash"
            if facts["verified"]
            else ", file unverified (its hash is not the published one)"
        )
    if facts.get("licence"):
        notes[0] += f"; licence {markdown_text(facts['licence'])}"
    notes[0] += "."
    return notes + [_leak_note(data, run) for run in data.runs if run.files.metrics.get("leaky")]


def _leak_note(data: DataSet, run: RunEntry) -> str:
    """That splits share images, and the accuracy on the test images that are not shared."""
    clean = run.files.clean_test
    beside = (
        f"; without the shared images {as_interval(clean['accuracy'])} (n = {clean['n']:,})"
        if clean and run.test is not None
        else ""
    )
    score = f" {run.score('accuracy')}" if run.test is not None else ""
    names = markdown_text(f"{data.title}, run {run.name}")
    return f"{names}: **leaky**, splits share images; test accuracy{score}{beside}."


def _performance(summary: Summary) -> str:
    """One row a run; runs on other test images stand under a heading of their own."""
    columns = (
        "Dataset", "Methodology", "Run", "Seed", "Test Accuracy [95 %]", "n", "AUROC [95 %]",
        "Majority Baseline", "Verdict", "Status",
    )  # fmt: skip
    rows = [_run_cells(data, run) for data in summary.data_sets for run in _in_order(data)]
    notes = [
        "Accuracy of several labels an image is the exact match of all labels. AUROC is the macro "
        "average. Majority baseline: the best that a constant answer scores. Verdict: `collapsed` "
        "gives one answer to nearly every image, `no_skill` is not surely above trivial answers; "
        "neither is ever called best.",
        f"![Test accuracy and AUROC of every run]({PICTURE})",
    ]
    return "\n\n".join([_table(columns, rows), *notes])


def _in_order(data: DataSet) -> list[RunEntry]:
    """Runs on the same test images together, then those without a test score."""
    scored = [run for part in data.test_sets for run in part.runs]
    return [*scored, *(run for run in data.runs if run.test is None)]


def _run_cells(data: DataSet, run: RunEntry) -> tuple[str, ...]:
    name = markdown_text(data.title)
    if len(data.test_sets) > 1 and run.test is not None:
        name += f" (test images {run.test_key()[:8]})"
    return (
        name,
        markdown_text(method_name(data, run)),
        markdown_text(run.name),
        count_text(run.seed),
        _score(run, "accuracy"),
        count_text((run.test or {}).get("n")),
        _score(run, "auroc_macro"),
        markdown_text(majority_words(run)),
        _verdict_cell(run),
        status_words(run),
    )


def method_name(data: DataSet, run: RunEntry) -> str:
    """The method's name among those on the same test images; else the model."""
    methods = [method for part in data.test_sets for method in part.methods]
    return next((m.name for m in methods if run in m.runs), run.model)


def _score(run: RunEntry, metric: str) -> str:
    value = run.score(metric)
    return str(value) if value.value is not None else NOT_MEASURED


def _verdict_cell(run: RunEntry) -> str:
    parts = [f"**{run.verdict}**" if run.verdict in ("collapsed", "no_skill") else run.verdict]
    if run.test is not None:
        parts += [caution_text(run.test)] if caution_text(run.test) else []
        parts += ["leaky"] if run.files.metrics.get("leaky") else []
    return "; ".join(parts)


def status_words(run: RunEntry) -> str:
    """Finished or not; and whether test was opened."""
    if not run.is_finished:
        return "⏸ Interrupted"
    if run.test is not None:
        return "✅ Completed"
    return "✅ Completed, test not opened" if _test_images(run) else "✅ Completed, no test set"


def _configuration(summary: Summary) -> str:
    """The seed's list; where runs differ, each value with its runs."""
    facts = {run.name: configuration(run) for run in summary.runs}
    lines = []
    for key in next(iter(facts.values()), {}):
        by_value: dict[str, list[str]] = {}
        for name, found in facts.items():
            by_value.setdefault(found[key], []).append(name)
        if len(by_value) == 1:
            said = markdown_text(next(iter(by_value)))
        else:
            said = "; ".join(
                markdown_text(f"{value} ({', '.join(names)})") for value, names in by_value.items()
            )
        lines.append(f"- **{key}**: {said}")
    return "\n".join(lines)


def configuration(run: RunEntry) -> dict[str, str]:
    """What a run was trained with, in the seed's words."""
    config, training = run.files.config, run.files.training
    packages = run.files.env.get("packages") or {}
    total = (training.get("parameters") or {}).get("total")
    parameters = f" ({total:,} parameters)" if isinstance(total, int) else ""
    in_one_go = training.get("fitted") is not None
    once = "not used: the head was fitted in one go"
    epochs = f"{count_text(training.get('epochs_run'))} of {count_text(config.get('epochs'))}"
    lr, decay = config.get("lr"), config.get("weight_decay")
    return {
        "Framework": f"PyTorch {packages.get('torch', 'not recorded')}, "
        f"scanwise {packages.get('scanwise', 'not recorded')}",
        "Model": f"{run.model}{parameters}",
        "Optimizer": once if in_one_go else f"{config.get('optimizer')}, weight decay {decay}",
        "Loss Function": "logistic regression" if in_one_go else loss_words(run),
        "Batch Size": once if in_one_go else count_text(config.get("batch_size")),
        "Learning Rate": once
        if in_one_go
        else f"{float(lr):g}, schedule {config.get('scheduler')}"
        if lr is not None
        else NOT_MEASURED,
        "Epochs": once if in_one_go else epochs if training else NOT_MEASURED,
        "Device": str(training.get("device") or run.files.env.get("device") or "not recorded"),
    }


def loss_words(run: RunEntry) -> str:
    """The loss by the name that its users know."""
    config = run.files.config
    sigmoid = run.files.task == "multilabel" or config.get("output_activation") == "sigmoid"
    name = {
        "focal": f"focal loss, gamma {config.get('focal_gamma')}",
        "logit_adjust": "cross-entropy with adjusted logits",
    }.get(str(config.get("loss")), "BCEWithLogitsLoss" if sigmoid else "CrossEntropyLoss")
    smoothing = config.get("label_smoothing")
    return f"{name}, label smoothing {smoothing}" if smoothing else name


def _findings(summary: Summary) -> str:
    lines = [
        f"- **{markdown_text(each.title)}**: {markdown_text(each.text)} "
        f"<sub>{markdown_text('; '.join(each.sources))}</sub>"
        for each in summary.findings
    ]
    blocks = ["\n".join(lines)] if lines else ["Nothing was measured on test."]
    if summary.comparisons:
        blocks.append(_comparison_table(summary.comparisons))
        blocks.append(
            "Which method leads was seen on these very test images, so its lead is a little too "
            "large; choose a method on validation. Differences are paired by image; with one seed "
            "each they are about these trained models, with several about training again. The "
            "verdict rests on p, corrected (Holm) for the comparisons on the same test images. "
            "Where several settings differ, no difference is the effect of one of them."
        )
    return "\n\n".join(blocks)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    columns = (
        "Test images", "Leader", "Other", "Measure", "Leader − other [95 %]", "p",
        "Leader is", "Settings",
    )  # fmt: skip
    rows = [
        tuple(
            markdown_text(cell)
            for cell in (
                each.data,
                each.leader.title,
                each.other.title,
                {"accuracy": "accuracy", "auroc_macro": "macro AUROC"}[each.found.metric],
                each.found.difference.signed(),
                _p_cell(each),
                each.found.verdict,
                confounding_words(each.differs),
            )
        )
        for each in comparisons
    ]
    return _table(columns, rows)


def _p_cell(comparison: Comparison) -> str:
    p_value = comparison.found.corrected_p
    return "not tested" if p_value is None else p_words(p_value).removeprefix("p=")


def _next_steps(summary: Summary) -> str:
    if not summary.steps:
        return "No run advised anything."
    lines = [
        f"{number}. {markdown_text(step.text)} (run {markdown_text(step.run)})\n"
        f"   `{code_text(step.command)}`"
        for number, step in enumerate(summary.steps[:MAX_STEPS], start=1)
    ]
    left = len(summary.steps) - MAX_STEPS
    more = [f"{left} more in the reports of the runs."] if left > 0 else []
    head = "What the reports of the runs advised, and what is left to finish:"
    return "\n\n".join([head, "\n".join(lines), *more])


def _file_structure(tree: Sequence[str]) -> str:
    """The results folder drawn as a tree."""
    nested: dict[str, Any] = {}
    for path in tree:
        place = nested
        for part in path.split("/"):
            place = place.setdefault(part, {})
    entries = {**nested, PICTURE: None, SUMMARY_PAGE: None}
    return "\n".join(["```", "training_results/", *_branches(entries, ""), "```"])


def _branches(entries: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for place, (name, below) in enumerate(entries.items()):
        last = place == len(entries) - 1
        mark = "/" if below is not None else ""
        lines.append(f"{indent}{'└── ' if last else '├── '}{name}{mark}")
        lines += _branches(below or {}, indent + ("    " if last else "│   "))
    return lines


# The picture and the machine's answer.


def picture_groups(summary: Summary) -> tuple[RunGroup, ...]:
    """Rows of the picture, grouped by test images."""
    groups = []
    for data in summary.data_sets:
        for part in data.test_sets:
            rows = tuple(_row(data, run) for run in part.runs)
            groups.append(RunGroup(part_title(data, part), rows))
        unscored = tuple(_row(data, run) for run in data.runs if run.test is None)
        if unscored:
            groups.append(RunGroup(f"{data.title}, not scored on test", unscored))
    return tuple(groups)


def _row(data: DataSet, run: RunEntry) -> ScoredRun:
    result = run.test or {}
    seed = "" if run.seed is None else f", seed {run.seed}"
    return ScoredRun(
        label=f"{method_name(data, run)}{seed}",
        accuracy=as_interval(result.get("accuracy")),
        auroc=as_interval(result.get("auroc_macro")),
        majority=trivial_value(result, "accuracy"),
        has_skill=run.verdict == "ok",
        note="" if result else status_words(run).partition(" ")[2].lower(),
    )


def picture_alt(summary: Summary) -> str:
    """The picture in words."""
    said = [
        f"{row.label} on {group.title}: accuracy {row.accuracy}, AUROC {row.auroc}"
        for group in picture_groups(summary)
        for row in group.rows
    ]
    return "Test accuracy and AUROC of every run with 95 % intervals. " + ". ".join(said) + "."


def _data_json(data: DataSet) -> dict[str, Any]:
    facts = data.facts
    return {
        "folder": data.folder,
        "name": facts.get("name"),
        "description": data_description(facts),
        "samples": facts.get("n"),
        "classes": len(facts.get("class_names") or ()),
        "test_sets": [
            {"key": part.key, "n": part.n, "runs": [run.name for run in part.runs]}
            for part in data.test_sets
        ],
    }


def _run_json(data: DataSet, run: RunEntry) -> dict[str, Any]:
    result = run.test or {}
    return {
        "dataset": data.folder,
        "run": run.name,
        "methodology": method_name(data, run),
        "seed": run.seed,
        "status": "completed" if run.is_finished else "interrupted",
        "split": "test",
        "n": result.get("n"),
        "accuracy": run.score("accuracy").to_json(),
        "auroc_macro": run.score("auroc_macro").to_json(),
        "majority_accuracy": trivial_value(result, "accuracy"),
        "verdict": run.verdict,
        "leaky": bool(run.files.metrics.get("leaky")),
    }
