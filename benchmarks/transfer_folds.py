"""What transfer learning is worth on small real data, and what fixed views cost: five folds.

    python benchmarks/transfer_folds.py [--shared ../shared] [--seeds 1] [--only NAME]
    python benchmarks/transfer_folds.py --near --seeds 3

ham_287 (dermatoscopy, three classes, grouped by lesion) in five folds of whole lesions; within each
fold validation is cut from the other four and picks everything, test is scored once. Out-of-fold
answers are pooled and compared on the same images: paired bootstrap by lesion.

`--near`: transfer from a nearer domain, a network trained on DermaMNIST without ham_287's lesions
(dermamnist_source.py: what is left out, how it is trained, all without ham_287). The plan, written
before any of it was run, three seeds of folds, all reported:

- a: the default from scratch; b: the default transfer from ImageNet (both as measured before);
- c: `--model run:SOURCE` with the default transfer recipe, 28 px, centre square. The main question
  is c against a, accuracy, over the three seeds; all other comparisons stand beside it;
- c, fine-tuned: the same with `--finetune full`;
- the network of c from scratch, on the same 28 px: c's gain over it is that of the weights;
- b and c side by side: the mean of their probabilities, nothing fitted.

Added after the results were seen, to tell transfer from averaging: the mean of the two networks
from scratch.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

import dermamnist_source as source
import scanwise as sw
from scanwise.core.types import Dataset, Interval, Split
from scanwise.data.splits import write_splits
from scanwise.metrics.compare import compare
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.over_seeds import over_seeds as mean_over_seeds
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.predictions import Predictions, make_predictions

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "folds"
FOLDS = 5
BACKBONE = "weights/mobilenet_v2_imagenet"
SCRATCH, FRESH, FRESH_MLP = "from scratch (default)", "15 views", "guide's head, rate 1e-3, fresh"
IMAGENET = "transfer (default)"
# One factor: the weights that the same network starts from, at a size that a CPU can train it at.
SAME_PX = 128
SAME = f"same network from scratch, {SAME_PX} px"
GUIDE = {"preset": "auto", "lr": 1e-3, "patience": 0}
# Name, flags, and what it is compared with. The guide's head over 15 epochs sees each of 15 views
# once: fresh augmentation. The logistic head sees all its views at once.
METHODS: tuple[tuple[str, dict[str, object], str], ...] = (
    (SCRATCH, {}, SCRATCH),
    (IMAGENET, {}, SCRATCH),
    (SAME, {"size": SAME_PX, "epochs": 40, "patience": 0}, SAME),
    (f"transfer, {SAME_PX} px", {"size": SAME_PX}, SAME),
    ("guide's table (--preset auto)", {"preset": "auto"}, SCRATCH),
    ("logistic, last level", {"levels": "last"}, SCRATCH),
    (FRESH, {"views": 15}, SCRATCH),
    ("1 view", {"views": 1}, FRESH),
    ("4 views", {"views": 4}, FRESH),
    ("8 views", {"views": 8}, FRESH),
    (FRESH_MLP, GUIDE | {"views": 15}, SCRATCH),
    ("guide's head, rate 1e-3, 1 view", GUIDE | {"views": 1}, FRESH_MLP),
    ("guide's head, rate 1e-3, 4 views", GUIDE | {"views": 4}, FRESH_MLP),
    ("guide's head, rate 1e-3, 8 views", GUIDE | {"views": 8}, FRESH_MLP),
    ("fine-tuned (last:4)", {"finetune": "last:4"}, IMAGENET),
)
NEAR, SMALL = "transfer from DermaMNIST", f"its network from scratch, {source.PX} px"
BOTH, BOTH_SCRATCH = "both transfers, averaged", "both from scratch, averaged"
AVERAGED = {BOTH: (IMAGENET, NEAR), BOTH_SCRATCH: (SCRATCH, SMALL)}
SUMMARY = ("accuracy", "auroc_macro", "cross_entropy_loss")


def near_methods(shared: Path) -> tuple[tuple[str, dict[str, object], str], ...]:
    """What `--near` compares; the network to start from is trained if it is not there yet."""
    run = source.source_run(shared)
    small = {"size": source.PX, "fit": source.FIT, "report": False}
    start = small | {"model": f"run:{run}"}
    return (
        (SCRATCH, {}, SCRATCH),
        (IMAGENET, {}, SCRATCH),
        (NEAR, start, SCRATCH),
        (f"{NEAR}, fine-tuned (full)", start | {"finetune": "full"}, SCRATCH),
        (SMALL, small | {"model": source.NETWORK}, SCRATCH),
        (BOTH, {}, SCRATCH),
        (BOTH_SCRATCH, {}, SCRATCH),
    )


class RandomWeights(nn.Module):
    """The backbone's own architecture with random weights and one linear layer."""

    def __init__(self, backbone: Path, num_classes: int, seed: int) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        torch.manual_seed(seed)
        self.backbone = AutoModel.from_config(AutoConfig.from_pretrained(backbone))
        self.head = nn.Linear(1280, num_classes)  # MobileNetV2's width

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images).pooler_output)


def folds(dataset: Dataset, seed: int) -> list[Split]:
    """Five splits of whole groups; each image is in test once."""
    rows = np.arange(len(dataset))
    groups = np.array(dataset.groups)
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    made = []
    for rest, test in outer.split(rows, dataset.targets, groups):
        inner = StratifiedGroupKFold(6, shuffle=True, random_state=seed)
        train, val = next(iter(inner.split(rest, dataset.targets[rest], groups[rest])))
        made.append(Split(rest[train], rest[val], test, "file", seed))
    return made


def out_of_fold(
    name: str, flags: dict[str, object], data: Path, backbone: Path, seed: int
) -> tuple[Predictions, float]:
    """Pooled test predictions of the five folds, and the seconds of all five runs."""
    transfer = "from scratch" not in name
    size = flags.get("size", 224 if transfer else None)
    fit = flags.get("fit", "stretch")
    dataset = sw.load(data, group="group", fit=fit, **({"size": size} if size else {}))
    slug = "".join(c if c.isalnum() else "-" for c in name)
    settings = ({"model": f"hf:{backbone}"} if transfer else {}) | flags
    parts, seconds = [], 0.0
    for number, split in enumerate(folds(dataset, seed)):
        folder = RUNS / f"{slug}-seed{seed}-fold{number}"
        if not (folder / "metrics.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            csv_path = RUNS / f"seed{seed}-fold{number}.csv"
            RUNS.mkdir(parents=True, exist_ok=True)
            if name == SAME:  # anew: training changes it
                settings["model"] = RandomWeights(backbone, len(dataset.class_names), seed)
            write_splits(csv_path, dataset, split)
            sw.train(
                str(data), group="group", splits=str(csv_path), seed=seed, output=str(folder),
                **settings,
            )  # fmt: skip
        parts.append(_test_rows(folder, dataset))
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        seconds += facts["seconds_in_all"]
    return _pooled(parts, dataset), seconds


def _test_rows(folder: Path, dataset: Dataset) -> list[tuple[str, list[float]]]:
    with (folder / "predictions.csv").open(encoding="utf-8") as stream:
        return [
            (row["sample"], [float(row[f"prob_{name}"]) for name in dataset.class_names])
            for row in csv.DictReader(stream)
            if row["split"] == "test"
        ]


def _pooled(parts: list[list[tuple[str, list[float]]]], dataset: Dataset) -> Predictions:
    answers = {sample: row for part in parts for sample, row in part}
    assert len(answers) == len(dataset) == sum(len(part) for part in parts)
    made = make_predictions(
        dataset.sample_ids,
        ("test",) * len(dataset),
        dataset.targets,
        [answers[sample] for sample in dataset.sample_ids],
        dataset.class_names,
    )
    return replace(made, groups=dataset.groups)


def averaged(first: Predictions, second: Predictions) -> Predictions:
    """The mean of two models' probabilities on the same images."""
    made = make_predictions(
        first.sample,
        first.split,
        first.targets,
        (first.probabilities + second.probabilities) / 2,
        first.class_names,
    )
    return replace(made, groups=first.groups)


def log_loss(part: Predictions) -> np.ndarray:
    return -np.log(part.probabilities[np.arange(len(part)), part.targets].clip(1e-12))


def gain(first: np.ndarray, second: np.ndarray, part: Predictions) -> str:
    found = paired_gain(first, second, part.targets, groups=part.groups)
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def over_seeds(seeds: list[dict[str, Predictions]], name: str, other: str) -> str:
    """The gains of one method over another, each picture's scores averaged over the seeds."""
    first = seeds[0][name]
    right, losses = (
        [np.mean([score(parts[each]) for parts in seeds], axis=0) for each in (other, name)]
        for score in (is_right, log_loss)
    )
    return (
        f"| {name} | all {len(seeds)} | {right[1].mean():.3f} |  |  | {losses[1].mean():.3f} | "
        f"{other} | {gain(*right, first)} | {gain(losses[1], losses[0], first)} |  |"
    )


def summary(seeds: list[dict[str, Predictions]], other: str) -> list[str]:
    """Every method over all seeds, with its difference to `other` as `scanwise compare` tests it.

    Intervals count other images (whole lesions) and other seeds; the difference is the method's
    value less the other's.
    """
    lines = [
        f"| all {len(seeds)} seeds | {' | '.join(SUMMARY)} | "
        + " | ".join(f"{metric}, less {other}" for metric in SUMMARY)
        + " |",
        "|---" * (1 + 2 * len(SUMMARY)) + "|",
    ]
    for name in seeds[0]:
        own, base = ([parts[each] for parts in seeds] for each in (name, other))
        cells = [str(mean_over_seeds(own, metric)[0]) for metric in SUMMARY]
        if name != other:
            cells += [compare(base, own, metric).short() for metric in SUMMARY]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def is_right(part: Predictions) -> np.ndarray:
    return (part.predicted == part.targets).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shared", default=os.environ.get("SCANWISE_SHARED", ROOT.parent / "shared")
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--near", action="store_true", help="transfer from DermaMNIST instead")
    given = parser.parse_args()
    shared = Path(given.shared)
    data = shared / "data" / "folders" / "ham_287" / "manifest.csv"
    methods = near_methods(shared) if given.near else METHODS
    chosen = [m for m in methods if not given.only or given.only in (*m[:1], *m[2:])]
    lines = [
        "| method | seed | accuracy | balanced accuracy | AUROC (macro) | log-loss | compared with "
        "| gain in accuracy, paired | fall of log-loss, paired | seconds for 5 runs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    seeds: list[dict[str, Predictions]] = []
    for seed in range(given.seeds):
        parts: dict[str, Predictions] = {}
        seeds.append(parts)
        for name, flags, other in chosen:
            if name in AVERAGED:
                part, seconds = averaged(*(parts[each] for each in AVERAGED[name])), 0.0
            else:
                part, seconds = out_of_fold(name, flags, data, shared / BACKBONE, seed)
            parts[name] = part
            found = evaluate_predictions(part, "test")
            cells = [
                str(Interval.from_json(found[key]))
                for key in ("accuracy", "balanced_accuracy", "auroc_macro")
            ]
            losses = log_loss(part)
            gains = ["", "", ""]
            if other != name:
                base = parts[other]
                right = [is_right(each) for each in (base, part)]
                gains = [other, gain(*right, part), gain(losses, log_loss(base), part)]
            lines.append(
                f"| {name} | {seed} | {' | '.join(cells)} | {losses.mean():.3f} | "
                f"{' | '.join(gains)} | {seconds:.0f} |"
            )
            print(lines[-1], flush=True)
    if given.seeds > 1:
        for name, _, other in chosen:
            if other != name:
                lines.append(over_seeds(seeds, name, other))
    if given.near and given.seeds > 1:
        for other in (SCRATCH, SMALL, IMAGENET, NEAR, BOTH_SCRATCH):
            lines += ["", *summary(seeds, other)]
    (RUNS / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
