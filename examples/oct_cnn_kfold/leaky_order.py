"""What resampling and augmenting before the split does to a score: the wrong order, rebuilt.

    python examples/oct_cnn_kfold/leaky_order.py [--data FILE.npz] [--images N] [--epochs 10]

The project that this example follows enhanced contrast, balanced the classes with SMOTE and
augmented all images, and only then divided them into five folds. So a test fold held altered copies
of training images, and points interpolated between training and test images. Here the same network
is trained twice in five folds on the same images of the same file:

- wrong order: contrast, SMOTE and one altered copy of every image first, then random folds;
- right order: folds first, then contrast, SMOTE and augmentation inside the training part.

Both are scored on the original images, out of fold and paired; the wrong order also on its own test
folds (what that project would report); and both on the file's test images, which neither touched.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imblearn.over_sampling import SMOTE
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

import scanwise as sw
from scanwise.core.config import make_config
from scanwise.core.files import write_json, write_text
from scanwise.core.types import Dataset, Split
from scanwise.data.load import from_arrays
from scanwise.data.splits import draw_part, write_splits
from scanwise.metrics.compare import Comparison, compare
from scanwise.metrics.evaluate import evaluate_split
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.prepare.augment import parse_augmentation
from scanwise.prepare.contrast import parse_contrast
from scanwise.studies.compare import Asked
from scanwise.studies.cross_validation import cross_validate

FOLDS = 5
CONTRAST = "clahe:clip=2,grid=7"
# The project's training: Adam 1e-3, batches of 64, early stopping after 3, plateau schedule.
RECIPE = {
    "model": "simple_cnn", "optimizer": "adam", "lr": 1e-3, "batch_size": 64, "patience": 3,
    "scheduler": "plateau", "weight_decay": 0.0, "label_smoothing": 0.0, "ema": False,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Arm:
    """One order of the steps."""

    originals: Predictions  # each original image, out of fold
    untouched: tuple[Predictions, ...]  # the test images, by each fold's model
    own: dict[str, Any]  # scores on all that its test folds held


def leaky_data(images: NDArray, targets: NDArray, seed: int) -> tuple[NDArray, NDArray]:
    """Contrast, SMOTE on pixels and one augmented copy of all, before any split.

    The originals are the first n of the (2 * (n + synthetic)) images.
    """
    enhanced = parse_contrast(CONTRAST).apply(images)
    flat = enhanced.reshape(len(enhanced), -1)
    more, labels = SMOTE(random_state=seed).fit_resample(flat, targets)
    balanced = np.asarray(more, np.uint8).reshape(-1, *enhanced.shape[1:])
    levels = torch.from_numpy(balanced).permute(0, 3, 1, 2)
    altered = parse_augmentation("medium").apply(levels, torch.Generator().manual_seed(seed))
    copies = altered.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.concatenate([balanced, copies]), np.concatenate([labels, labels]).astype(np.int64)


def random_folds(targets: NDArray, seed: int) -> list[Split]:
    """Folds of single images, as if none were a copy of another; a sixth of the rest validates."""
    outer = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    made = []
    for rest, test in outer.split(targets, targets):
        inner = StratifiedKFold(6, shuffle=True, random_state=seed)
        train, val = next(iter(inner.split(rest, targets[rest])))
        made.append(Split(rest[train], rest[val], test, "file", seed))
    return made


def wrong_order(data: Dataset, untouched: Dataset, epochs: int, seed: int, folder: Path) -> Arm:
    """Train and score the wrong order on `data`; `untouched` is only predicted."""
    images, targets = leaky_data(data.images, data.targets, seed)
    leaky = from_arrays(images, targets, class_names=data.class_names, name="leaky")
    out_of_fold = np.full((len(leaky), leaky.num_classes), np.nan)
    on_test = []
    for fold, split in enumerate(random_folds(targets, seed)):
        file = folder / f"leaky-fold{fold + 1}.csv"
        write_splits(file, leaky, split)
        run = sw.train(
            leaky, **RECIPE, epochs=epochs, seed=seed, splits=str(file), accept_leak=True,
            augment="none", report=False, output=str(folder / f"leaky-fold{fold + 1}"), force=True,
        )  # fmt: skip
        bundle = sw.Bundle.from_pretrained(run.bundle)
        out_of_fold[split.test] = bundle.predict(leaky.images[split.test]).probabilities
        # This network expects contrast that was enhanced beforehand, so it gets it.
        enhanced = parse_contrast(CONTRAST).apply(np.asarray(untouched.images))
        on_test.append(answers(untouched, bundle.predict(enhanced).probabilities))
    originals = answers(data, out_of_fold[: len(data)])
    own = evaluate_split(out_of_fold, targets, data.class_names, "multiclass")
    return Arm(originals, tuple(on_test), own)


def right_order(source: Path, untouched: Dataset, epochs: int, seed: int, folder: Path) -> Arm:
    """The same recipe with everything fitted inside its fold, through `scanwise train --cv`."""
    settings = {
        **RECIPE, "data": str(source), "epochs": epochs, "seed": seed, "contrast": CONTRAST,
        "balance": "smote-pixels", "augment": "medium", "output": str(folder / "right"),
        # Of the file's own test images, which are in no fold; DermaMNIST's have copies in train.
        "accept_leak": True,
    }  # fmt: skip
    found = cross_validate(make_config(settings), Asked((str(source),), cv=FOLDS))
    part = found.findings.answers[str(source), "base"][0]
    bundles = [sw.Bundle.from_pretrained(run.bundle) for run in part.runs]
    on_test = [answers(untouched, one.predict(untouched.images).probabilities) for one in bundles]
    own = evaluate_split(
        part.scored.probabilities, part.scored.targets, part.scored.class_names, "multiclass"
    )
    return Arm(replace(part.scored, groups=None), tuple(on_test), own)


def answers(data: Dataset, probabilities: NDArray) -> Predictions:
    return make_predictions(
        data.sample_ids, ("test",) * len(data), data.targets, probabilities, data.class_names
    )


def in_folds(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Train and validation images together, which are divided into folds, and the test images."""
    given = np.asarray(dataset.given_split)
    return rows_of(dataset, np.flatnonzero(given != "test")), rows_of(
        dataset, np.flatnonzero(given == "test")
    )


def rows_of(dataset: Dataset, rows: NDArray) -> Dataset:
    return Dataset(
        dataset.name,
        np.asarray(dataset.images[rows]),
        dataset.targets[rows],
        dataset.class_names,
        tuple(dataset.sample_ids[row] for row in rows),
        tuple(dataset.sha256[row] for row in rows),
    )


def lines_of(wrong: Arm, right: Arm, inflation: Comparison, untouched: Comparison) -> list[str]:
    """The table, and two sentences."""

    def score(arm: Arm) -> str:
        part = arm.originals
        return str(wilson_interval(int((part.predicted == part.targets).sum()), len(part)))

    def mean(arm: Arm) -> str:
        return f"{np.mean([(p.predicted == p.targets).mean() for p in arm.untouched]):.3f}"

    own = [arm.own["accuracy"]["value"] for arm in (wrong, right)]
    return [
        "| order | accuracy that it reports (its own test folds) | on the original images, out of "
        "fold | on untouched test images (mean of the folds' models) |",
        "|---|---|---|---|",
        f"| wrong: all before the split | {own[0]:.3f} (n = {wrong.own['n']:,}) | {score(wrong)} "
        f"| {mean(wrong)} |",
        f"| right: all inside the fold | {own[1]:.3f} (n = {right.own['n']:,}) | {score(right)} "
        f"| {mean(right)} |",
        "",
        f"Inflation on the same {inflation.n:,} original images (wrong minus right): "
        f"{inflation.difference.signed()}.",
        f"On {untouched.n:,} images that neither touched, wrong minus right was "
        f"{untouched.difference.signed()} ({FOLDS} models each).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("SCANWISE_SHARED", "../shared")
    parser.add_argument("--data", default=f"{shared}/data/medmnist/pneumoniamnist.npz")
    parser.add_argument("--images", type=int, help="Of train and validation, stratified. [all]")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/leaky_order"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    inside, untouched = in_folds(sw.load(given.data))
    source = Path(given.data)
    if given.images is not None and given.images < len(inside):
        share = given.images / len(inside)
        inside = rows_of(inside, draw_part(inside, np.arange(len(inside)), share, seed=given.seed))
        source = given.output / "part.npz"
        np.savez(
            source,
            train_images=inside.images.squeeze(),
            train_labels=inside.targets[:, None],
            test_images=untouched.images.squeeze(),
            test_labels=untouched.targets[:, None],
        )
        inside, _ = in_folds(sw.load(source))
    right = right_order(source, untouched, given.epochs, given.seed, given.output)
    wrong = wrong_order(inside, untouched, given.epochs, given.seed, given.output)
    inflation = compare([right.originals], [wrong.originals])
    beside = compare(right.untouched, wrong.untouched)
    lines = lines_of(wrong, right, inflation, beside)
    write_text(given.output / "leaky_order.md", "\n".join(lines) + "\n")
    write_json(
        given.output / "leaky_order.json",
        {
            "reported": {"wrong": wrong.own["accuracy"], "right": right.own["accuracy"]},
            "inflation": inflation.to_json(),
            "untouched": beside.to_json(),
        },
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
