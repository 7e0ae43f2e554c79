"""Train what docs/results.md reports, three seeds each, and write its tables.

    python benchmarks/results.py [--shared ../shared] [--only NAME] [--seeds 3]

Finished runs in runs/results are kept, so that it can be stopped and started again. Validation
picks everything; each run looks at test once.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pages import write_between

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"
START, END = "<!-- results: start -->", "<!-- results: end -->"


@dataclass(frozen=True)
class Job:
    """One row group of the table: a data set, the flags, and the published line beside it."""

    name: str
    data: str  # below the shared folder
    flags: tuple[str, ...] = ()
    published: str = "none known"
    environ: dict[str, str] = field(default_factory=dict)


RESNET = ("--model", "resnet18", "--epochs", "10", "--precision", "bf16")
BREAST = "ResNet-18 .863/.901; best .865/.919"
PNEUMONIA = "ResNet-18 .854/.944; best .946/.991"
DERMA = "ResNet-18 .735/.917; best .768/.927"
JOBS = (
    Job("breast default", "data/medmnist/breastmnist.npz", (), BREAST),
    Job("pneumonia default", "data/medmnist/pneumoniamnist.npz", (), PNEUMONIA),
    Job("derma default", "data/medmnist/dermamnist.npz", (), DERMA),
    Job("bccd default", "data/folders/bccd_287", ("--group-regex", r"BloodImage_(\d+)")),
    Job("path1000 S3 MLP", "data/partial/pathmnist_train1000.npz",
        ("--model", "mlp:512,256,128", "--epochs", "20", "--optimizer", "adam", "--lr", "1e-3",
         "--scheduler", "none")),
    Job("path1000 default", "data/partial/pathmnist_train1000.npz"),
    Job("chest1000 default", "data/partial/chestmnist_subset1000.npz"),
    Job("breast resnet18", "data/medmnist/breastmnist.npz", RESNET, BREAST),
    Job("pneumonia resnet18", "data/medmnist/pneumoniamnist.npz", RESNET, PNEUMONIA),
    Job("derma resnet18", "data/medmnist/dermamnist.npz", RESNET, DERMA),
)  # fmt: skip


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", default=os.environ.get("SCANWISE_SHARED", ROOT.parent / "shared")
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables-only", action="store_true")
    given = parser.parse_args()
    jobs = [job for job in JOBS if given.only in job.name]
    if not given.tables_only:
        for seed in range(given.seeds):
            for job in jobs:
                train(job, seed, Path(given.shared))
    write_tables()


def folder_of(job: Job, seed: int) -> Path:
    return RUNS / f"{job.name.replace(' ', '-')}-seed{seed}"


def train(job: Job, seed: int, shared: Path) -> None:
    folder = folder_of(job, seed)
    if (folder / "report.json").is_file():
        return
    command = [
        sys.executable, "-m", "scanwise", "train", str(shared / job.data), *job.flags,
        "--seed", str(seed), "--output", str(folder), "--force",
    ]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{job.name} seed {seed}: {time.monotonic() - started:.0f} s, exit {done.returncode}")
    if done.returncode:
        print(done.stderr[-2000:])


def write_tables() -> None:
    """Put the tables between the markers of docs/results.md."""
    page = ROOT / "docs" / "results.md"
    write_between(page, START, END, tables().rstrip("\n"))
    print(f"wrote {page}")


HEADER = (
    "| run | seed | epochs (best) | training s | validation accuracy | test accuracy | balanced "
    "accuracy | test AUROC | MedMNIST ACC / AUC | majority accuracy | skill | looks |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def tables() -> str:
    lines = []
    for job in JOBS:
        rows = [row for seed in range(10) if (row := _row(job, seed))]
        if rows:
            flags = " ".join(f"'{flag}'" if "(" in flag else flag for flag in job.flags)
            lines.append(f"### {job.name}\n")
            lines.append(
                f"`scanwise train {job.data} {flags}`. Published (ACC/AUC): {job.published}.\n"
            )
            lines.append(HEADER + "".join(rows))
            lines.append(_means(job) + "\n")
    return "\n".join(lines)


def _load(job: Job, seed: int) -> tuple[dict, dict, list] | None:
    folder = folder_of(job, seed)
    if not (folder / "report.json").is_file():
        return None
    with (folder / "test_ledger.csv").open() as stream:
        looks = list(csv.DictReader(stream))
    return (
        json.loads((folder / "metrics.json").read_text()),
        json.loads((folder / "training.json").read_text()),
        looks,
    )


def _row(job: Job, seed: int) -> str:
    found = _load(job, seed)
    if found is None:
        return ""
    metrics, training, looks = found
    test, val = metrics["splits"]["test"], metrics["splits"]["val"]
    cells = [
        job.name,
        str(seed),
        f"{training['epochs_run']} ({training['best_epoch']})",
        f"{training['seconds']:.0f}",
        f"{_cell(val['accuracy'])}, n={val['n']}",
        f"{_cell(test['accuracy'])}, n={test['n']}",
        _cell(test["balanced_accuracy"]),
        _cell(test["auroc_macro"]),
        f"{_point(test['medmnist_acc'])} / {_point(test['medmnist_auc'])}",
        _majority(test["trivial"]),
        test["skill"],
        str(len(looks)),
    ]
    row = "| " + " | ".join(cells) + " |\n"
    clean = metrics.get("clean_splits", {}).get("test")
    if clean:
        cells = ["clean part of test", str(seed), "", "", "",
                 f"{_cell(clean['accuracy'])}, n={clean['n']}", _cell(clean["balanced_accuracy"]),
                 _cell(clean["auroc_macro"]),
                 f"{_point(clean['medmnist_acc'])} / {_point(clean['medmnist_auc'])}",
                 _majority(clean["trivial"]), clean["skill"], ""]  # fmt: skip
        row += "| " + " | ".join(cells) + " |\n"
    return row


def _means(job: Job) -> str:
    found = [entry for seed in range(10) if (entry := _load(job, seed))]
    parts = []
    for key, words in (("medmnist_acc", "ACC"), ("medmnist_auc", "AUC")):
        values = [_number(metrics["splits"]["test"][key]) for metrics, _, _ in found]
        values = [value for value in values if value is not None]
        if values:
            mean = sum(values) / len(values)
            spread = f"{min(values):.3f} to {max(values):.3f}"
            parts.append(f"MedMNIST {words} {mean:.3f} ({spread})")
    return f"Mean over {len(found)} seeds (range): {', '.join(parts) or 'not evaluable'}."


def _cell(entry: dict) -> str:
    if entry["value"] is None:
        return "not evaluable"
    low, high = entry.get("ci95") or (float("nan"), float("nan"))
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]"


def _number(entry: object) -> float | None:
    if isinstance(entry, dict):
        entry = entry.get("value")
    return entry if isinstance(entry, int | float) else None


def _point(entry: object) -> str:
    value = _number(entry)
    return "not evaluable" if value is None else f"{value:.3f}"


def _majority(trivial: dict) -> str:
    for name in ("majority", "all_negative"):
        if name in trivial and isinstance(trivial[name].get("accuracy"), int | float):
            return f"{trivial[name]['accuracy']:.3f}"
    return "not measured"


if __name__ == "__main__":
    main()
