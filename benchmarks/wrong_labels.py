"""Are wrong labels found? One in ten is made wrong, and `relabel suggest` must rank them first.

    python benchmarks/wrong_labels.py                            # about six minutes of CPU
    python benchmarks/wrong_labels.py --write docs/labels.md     # and put the table there

The quick classifier answers, as without --model and as with a pretrained one. Labels that were
wrong before count as right here, so all numbers are somewhat low. Ends with exit code 1 if a mean
AUROC is below its floor, and skips data that are not there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from pages import write_between
from scanwise.core.types import Dataset
from scanwise.data.load import load
from scanwise.metrics.label_errors import (
    find_label_errors,
    normalised_margin,
    prune_by_noise_rate,
)
from scanwise.models.backbones import open_backbone
from scanwise.pipeline.pretrained_features import pretrained_features
from scanwise.pipeline.quick_folds import quick_out_of_fold

SHARED = Path(os.environ.get("SCANWISE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
BACKBONE = "weights/mobilenet_v2_imagenet"
SHARE = 0.1
FIRST = 0.05
MOST = 2000
MARKS = ("<!-- wrong labels: start -->", "<!-- wrong labels: end -->")


@dataclass(frozen=True)
class Data:
    """A data set, and the mean AUROC below which something was broken."""

    words: str
    place: str
    floor: float
    group_regex: str | None = None


SETS = (
    Data("BreastMNIST, train and val", "medmnist/breastmnist.npz", 0.87),
    Data("blood cells (bccd_287)", "folders/bccd_287", 0.97, r"(BloodImage_\d+)"),
    Data("PneumoniaMNIST, 2,000 images", "medmnist/pneumoniamnist.npz", 0.97),
    Data("DermaMNIST, 2,000 images", "medmnist/dermamnist.npz", 0.9),
)


def open_images(data: Data) -> Dataset:
    """The images outside of an official test split, 2,000 at most, drawn with seed 0."""
    dataset = load(SHARED / "data" / data.place, group_regex=data.group_regex)
    rows = np.arange(len(dataset))
    if dataset.given_split is not None:
        rows = np.flatnonzero(np.asarray(dataset.given_split) != "test")
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    return Dataset(
        name=dataset.name,
        images=np.asarray(dataset.images[rows]),
        targets=dataset.targets[rows],
        class_names=dataset.class_names,
        sample_ids=tuple(dataset.sample_ids[row] for row in rows),
        sha256=tuple(dataset.sha256[row] for row in rows),
        groups=None if dataset.groups is None else tuple(dataset.groups[row] for row in rows),
    )


def plant(dataset: Dataset, seed: int) -> tuple[Dataset, NDArray[np.bool_]]:
    """The data with one label in ten moved to another class by chance, and which ones."""
    rng = np.random.default_rng(seed)
    targets, k = dataset.targets.copy(), dataset.num_classes
    rows = rng.choice(len(targets), round(SHARE * len(targets)), replace=False)
    targets[rows] = (targets[rows] + rng.integers(1, k, len(rows))) % k
    wrong = np.zeros(len(targets), bool)
    wrong[rows] = True
    return replace(dataset, targets=targets), wrong


def measure(
    dataset: Dataset, seed: int, extra: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """One planting: how well it was found. Images of unranked classes come last."""
    noisy, wrong = plant(dataset, seed)
    answers = quick_out_of_fold(noisy, seed=seed, extra=extra)
    found = find_label_errors(answers.probabilities, noisy.targets, num_resamples=2)
    score = np.nan_to_num(found.score, nan=1.0)
    first = found.ranking[: round(FIRST * len(wrong))]
    noise_rate = prune_by_noise_rate(answers.probabilities, noisy.targets)
    margin = normalised_margin(answers.probabilities, noisy.targets)
    return {
        "auroc": float(roc_auc_score(wrong, -score)),
        "auroc_margin": float(roc_auc_score(wrong, -margin)),
        "first": float(wrong[first].mean()),
        "recall": float(found.suspected[wrong].mean()),
        "precision": float(wrong[found.suspected].mean()),
        "recall_noise_rate": float(noise_rate[wrong].mean()),
        "precision_noise_rate": float(wrong[noise_rate].mean()),
        "share": float(found.share.value or 0),
        "agreement": float((answers.predicted == noisy.targets).mean()),
    }


def over_seeds(values: Sequence[float]) -> str:
    """Mean and its 95 % t interval over plantings."""
    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return f"{mean:.3f} [{max(0.0, mean - half):.3f}, {min(1.0, mean + half):.3f}]"


def table(results: dict[str, tuple[int, list[dict[str, float]]]], seeds: int) -> str:
    """The results in Markdown."""
    lines = [
        "| data | n | AUROC of the ranking | by margin | first 5 % wrong | suspects: wrong, found |"
        " estimated share | answers repeat the label |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for words, (n, rows) in results.items():
        mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        lines.append(
            f"| {words} | {n:,} | {over_seeds([row['auroc'] for row in rows])} | "
            f"{mean['auroc_margin']:.3f} | {over_seeds([row['first'] for row in rows])} | "
            f"{mean['precision']:.2f}, {mean['recall']:.2f} (noise rate "
            f"{mean['precision_noise_rate']:.2f}, {mean['recall_noise_rate']:.2f}) | "
            f"{mean['share']:.3f} | {mean['agreement']:.3f} |"
        )
    note = (
        f"10 % of labels planted wrong, {seeds} plantings; brackets: 95 % t interval over "
        "plantings. Each image is answered by all others; images of official test splits left out. "
        "MobileNetV2: with the features of ImageNet weights, `--model hf:FOLDER`."
    )
    return "\n".join([*lines, "", note])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="Markdown file with the marks of the table.")
    given = parser.parse_args()
    results, low = {}, []
    for data in SETS:
        if not (SHARED / "data" / data.place).exists():
            print(f"skipped: {SHARED / 'data' / data.place} is not there", file=sys.stderr)
            continue
        dataset = open_images(data)
        seen = {data.words: None}
        if (SHARED / BACKBONE).is_dir():
            backbone = open_backbone(f"hf:{SHARED / BACKBONE}")
            seen[f"{data.words}; MobileNetV2"] = pretrained_features(dataset, backbone)
        for words, extra in seen.items():
            rows = [measure(dataset, seed, extra) for seed in range(given.seeds)]
            results[words] = (len(dataset), rows)
            print(f"{words}: AUROC {over_seeds([row['auroc'] for row in rows])}", file=sys.stderr)
            if np.mean([row["auroc"] for row in rows]) < data.floor:
                low.append(words)
    text = table(results, given.seeds)
    print(text)
    if given.write is not None:
        write_between(given.write, *MARKS, text)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
