"""What each ingredient of the default recipe brings, on validation alone.

    python benchmarks/recipes.py [--seeds 3] [--only strong,medium] [--write docs/recipes.md]
    python benchmarks/recipes.py --corrupted RUN…    # on worse validation images

A bare training loop over scanwise's own network, augmentation, schedule and weight averaging (one
thread, bfloat16 passes, the last epoch is kept), so that ingredients which are not in the product
can be tried too. The base is half as wide as the default's network and costs a third; only what won
was built in. PneumoniaMNIST and DermaMNIST: their training split, scored on their validation split.
BreastMNIST, whose validation split has 78 images: four stratified folds of training and validation
together, pooled. The test splits are not read.

Each training leaves its answers in runs/recipes; what lies there is not trained again. Differences
are paired over images and seeds (`scanwise.metrics.compare`).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.core.files import write_text
from scanwise.metrics.compare import compare
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.models.build import build_model
from scanwise.prepare.augment import PRESETS, Augmentation
from scanwise.training.averaging import WeightAverage
from scanwise.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SCANWISE_SHARED", ROOT.parent / "shared"))
RUNS = ROOT / "runs" / "recipes"
SETS = {
    "pneumonia": "PneumoniaMNIST", "derma": "DermaMNIST", "breast": "BreastMNIST",
}  # fmt: skip
START, END = "<!-- ablations: start -->", "<!-- ablations: end -->"
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """One recipe; the defaults are the base of the comparisons."""

    width: int = 16
    full_size: bool = False  # the stem keeps 28 px
    px: int = 28
    shown: int = 150_000  # images in a whole training, within the epochs' bounds
    epochs: tuple[int, int] = (15, 60)
    lr: float = 4e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    dropout: float = 0.2
    augment: str = "strong"
    vertical: bool = False
    average: float = 0.99  # decay of the weights' average; 0 for none
    mix: str = ""
    bf16: bool = True


STRONG = Options()
MORE = Augmentation(
    flip_horizontal=True, rotation_degrees=25, zoom_fraction=0.25, shift_fraction=0.12,
    brightness_fraction=0.15, contrast_fraction=0.3,
)  # fmt: skip
MEDIUM = replace(STRONG, augment="medium")
# Name: words, recipe, and what it is compared with.
VARIANTS: dict[str, tuple[str, Options, str]] = {
    "base": ("strong augmentation, width 16", STRONG, "base"),
    "medium": ("medium augmentation", MEDIUM, "base"),
    "auggentle": ("gentle augmentation", Options(augment="gentle"), "base"),
    "augmore": ("more than strong (±25°, ±25 %)", Options(augment="more"), "base"),
    "w32_medium": ("twice as wide (the default's network)", replace(MEDIUM, width=32), "medium"),
    "m_long": (
        "twice as long", replace(MEDIUM, shown=300_000, epochs=(15, 120)), "medium",
    ),
    "nols_medium": ("no label smoothing", replace(MEDIUM, smoothing=0.0), "medium"),
    "medium_mixup": ("mixup", replace(MEDIUM, mix="mixup"), "medium"),
    "m_drop5": ("dropout 0.5", replace(MEDIUM, dropout=0.5), "medium"),
    "cutmix": ("CutMix in half of the batches", replace(STRONG, mix="cutmix"), "base"),
    "mixup": ("mixup, strong augmentation", replace(STRONG, mix="mixup"), "base"),
    "nols": ("no label smoothing, strong augmentation", replace(STRONG, smoothing=0.0), "base"),
    "vflip": ("vertical flips too", replace(STRONG, vertical=True), "base"),
    "noema": ("no averaging of weights", replace(STRONG, average=0.0), "base"),
    "ema998": ("slower averaging (0.998)", replace(STRONG, average=0.998), "base"),
    "wd2": ("weight decay 0.2", replace(STRONG, weight_decay=0.2), "base"),
    "w32half": (
        "twice as wide, half as long (the same cost)",
        replace(STRONG, width=32, shown=75_000, epochs=(8, 60)),
        "base",
    ),
    "fullres16h": (
        "stem at full size, half as long (twice the cost)",
        replace(STRONG, full_size=True, shown=75_000, epochs=(8, 60)),
        "base",
    ),
    "px40h": (
        "enlarged to 40 px, half as long (the same cost)",
        replace(STRONG, px=40, shown=75_000, epochs=(8, 60)),
        "base",
    ),
}  # fmt: skip


def load(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation: uint8 (n, c, h, w) and targets (n,)."""
    parts = []
    with np.load(SHARED / "data" / "medmnist" / f"{name}mnist.npz") as file:
        for split in ("train", "val"):
            images = torch.from_numpy(file[f"{split}_images"])
            images = images[..., None] if images.ndim == 3 else images
            targets = torch.from_numpy(file[f"{split}_labels"].astype(np.int64)).ravel()
            parts.append((images.permute(0, 3, 1, 2).contiguous(), targets))
    return parts[0], parts[1]


def places(name: str) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Images and targets to train on, and to score."""
    (images, targets), (val_images, val_targets) = load(name)
    if name != "breast":
        yield images, targets, val_images, val_targets
        return
    images, targets = torch.cat([images, val_images]), torch.cat([targets, val_targets])
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    for rest, scored in folds.split(np.zeros(len(targets)), targets.numpy()):
        yield images[rest], targets[rest], images[scored], targets[scored]


def mixed(
    how: str, images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Beta 0.2) or CutMix (half of the batches) of a batch with soft targets (b, k)."""
    chance = float(torch.rand((), generator=generator))
    if how == "cutmix" and chance >= 0.5:
        return images, targets
    alpha = 0.2 if how == "mixup" else 1.0
    seed = int(torch.randint(2**31, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(len(images), generator=generator)
    if how == "mixup":
        images = share * images + (1 - share) * images[order]
    else:
        px = images.shape[-1]
        side = px * math.sqrt(1 - share)
        x, y = (int(torch.randint(px, (), generator=generator)) for _ in range(2))
        left, right = max(0, int(x - side / 2)), min(px, int(x + side / 2))
        top, bottom = max(0, int(y - side / 2)), min(px, int(y + side / 2))
        images = images.clone(memory_format=torch.channels_last)
        images[:, :, top:bottom, left:right] = images[order][:, :, top:bottom, left:right]
        share = 1 - (right - left) * (bottom - top) / px**2
    return images, share * targets + (1 - share) * targets[order]


def resized(images: Tensor, px: int) -> Tensor:
    if px == images.shape[-1]:
        return images
    larger = F.interpolate(images.float(), size=(px, px), mode="bilinear", antialias=True)
    return larger.round().clamp(0, 255).byte()


def train(options: Options, images: Tensor, targets: Tensor, seed: int) -> tuple[nn.Module, Tensor]:
    """The network after its last epoch, and (scale, shift) of its input, (2, c)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    n, classes = len(images), int(targets.max()) + 1
    images = resized(images, options.px)
    spread = images.float().std((0, 2, 3))
    normal = torch.stack([1 / spread, -images.float().mean((0, 2, 3)) / spread])
    side = 20 if options.full_size else options.px  # under 24 px the stem keeps the size
    network = build_model(
        f"small_resnet:{options.width}", num_outputs=classes, channels=images.shape[1],
        size_px=(side, side), dropout=options.dropout,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    least, most = options.epochs
    epochs = min(most, max(least, math.ceil(options.shown / n)))
    batch = 32 if n < 500 else 64 if n < 2000 else 128
    steps = n // batch
    schedule = Schedule("onecycle", options.lr, epochs, steps)
    decayed = [each for each in network.parameters() if each.ndim > 1]
    plain = [each for each in network.parameters() if each.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    augmentation = MORE if options.augment == "more" else PRESETS[options.augment]
    if options.vertical:
        augmentation = augmentation.model_copy(update={"flip_vertical": True})
    average = WeightAverage(network, options.average) if options.average else None
    step = 0
    for _ in range(epochs):
        network.train()
        order = torch.randperm(n, generator=generator)
        for first in range(0, steps * batch, batch):
            rows = order[first : first + batch]
            x = augmentation.apply(
                images[rows], generator, scale_shift=(normal[0], normal[1]), channels_last=True
            )
            y = F.one_hot(targets[rows], classes).float()
            if options.mix:
                x, y = mixed(options.mix, x, y, generator)
            rates = schedule.at(step)
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rates.lr, (rates.momentum, 0.999)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=options.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if average is not None:
                average.update()
    return (network if average is None else average.model).eval(), normal


@torch.inference_mode()
def answers(network: nn.Module, normal: Tensor, images: Tensor) -> dict[str, Probabilities]:
    """Mean probabilities (n, k) over one, two and ten views."""
    px = images.shape[-1]

    def of(view: Callable[[Tensor], Tensor]) -> Probabilities:
        scale, shift = normal[:, None, :, None, None]
        parts = [
            network((view(block).float() * scale + shift).contiguous(
                memory_format=torch.channels_last)).softmax(1)
            for block in images.split(512)
        ]  # fmt: skip
        found: Probabilities = torch.cat(parts).numpy()
        return found

    def moved(down: int, right: int, mirror: bool) -> Callable[[Tensor], Tensor]:
        def view(block: Tensor) -> Tensor:
            block = block.flip(3) if mirror else block
            padded = F.pad(block.float(), (2,) * 4, mode="replicate")
            return padded[:, :, 2 + down : 2 + down + px, 2 + right : 2 + right + px]

        return view

    one = of(lambda block: block)
    two = (one + of(lambda block: block.flip(3))) / 2
    steps = ((-1, -1), (-1, 1), (1, -1), (1, 1))
    more = [of(moved(*step, mirror)) for step in steps for mirror in (False, True)]
    return {"plain": one, "flip": two, "shift": (two * 2 + np.sum(more, axis=0)) / 10}


def measure(variant: str, name: str, seed: int) -> None:
    """Train and score one variant on one set, unless that was done before."""
    file = RUNS / f"{variant}__{name}__{seed}.npz"
    if file.is_file():
        return
    options, began = VARIANTS[variant][1], time.process_time()
    found: dict[str, list[Probabilities]] = {}
    truth = []
    for images, targets, scored, scored_targets in places(name):
        network, normal = train(options, images, targets, seed)
        for views, part in answers(network, normal, resized(scored, options.px)).items():
            found.setdefault(views, []).append(part)
        truth.append(scored_targets.numpy())
    joined = {views: np.concatenate(parts) for views, parts in found.items()}
    cpu_s = time.process_time() - began
    RUNS.mkdir(parents=True, exist_ok=True)
    stated = json.dumps(asdict(options))
    np.savez(file, y=np.concatenate(truth), cpu=cpu_s, opts=stated, **joined)
    print(f"{variant}, {name}, seed {seed}: {cpu_s:.0f} CPU s", flush=True)


def predictions(variant: str, name: str, views: str = "shift") -> dict[int, Predictions]:
    """What was measured of a variant on a set, by seed."""
    found = {}
    for file in sorted(RUNS.glob(f"{variant}__{name}__*.npz")):
        with np.load(file) as saved:
            found[int(file.stem.rpartition("__")[2])] = as_predictions(saved[views], saved["y"])
    return found


def as_predictions(probabilities: Probabilities, targets: NDArray[np.int64]) -> Predictions:
    exact = probabilities.astype(np.float64)
    return make_predictions(
        tuple(f"image {row}" for row in range(len(targets))), ("val",) * len(targets), targets,
        exact / exact.sum(axis=1, keepdims=True),
        tuple(f"class {k}" for k in range(exact.shape[1])),
    )  # fmt: skip


def difference_cells(
    before: dict[int, Predictions], after: dict[int, Predictions]
) -> tuple[str, str, int]:
    """Gain in accuracy and in AUROC, and of how many seeds."""
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return "", "", 0
    pair = [before[seed] for seed in seeds], [after[seed] for seed in seeds]
    cells = [compare(*pair, metric).difference.signed() for metric in ("accuracy", "auroc_macro")]
    return cells[0], cells[1], len(seeds)


def row(words: str, against: str, gains: Sequence[tuple[str, str, int]]) -> str:
    seeds = sorted({count for *_, count in gains if count})
    cells = [cell for accuracy, auroc, _ in gains for cell in (accuracy, auroc)]
    counted = "–".join(map(str, seeds)) or "0"
    return f"| {words} | {against} | {counted} | " + " | ".join(cells) + " |"


def table() -> str:
    """Views, ensembles, then every variant; differences of each set."""
    heads = [f"{title} {what}" for title in SETS.values() for what in ("accuracy", "AUROC")]
    lines = [
        "| what | minus | seeds | " + " | ".join(heads) + " |",
        "|---|---|---|" + "---|" * len(heads),
    ]
    for words, views, before in (
        ("two views (mirrored)", "flip", "plain"),
        ("ten views (mirrored, moved by 1 px)", "shift", "plain"),
        ("ten views", "shift", "flip"),
    ):
        against = {"plain": "one view", "flip": "two views"}[before]
        gains = [
            difference_cells(predictions("base", n, before), predictions("base", n, views))
            for n in SETS
        ]
        lines.append(row(words, against, gains))
    lines.append(row("mean of three seeds", "one of them", [_vote(name) for name in SETS]))
    for variant, (words, _, other) in VARIANTS.items():
        if variant == other:
            continue
        gains = [difference_cells(predictions(other, n), predictions(variant, n)) for n in SETS]
        if any(count for *_, count in gains):
            lines.append(row(words, f"{VARIANTS[other][1].augment} augmentation", gains))
    return "\n".join(lines)


def _vote(name: str) -> tuple[str, str, int]:
    each = predictions("base", name)
    if len(each) < 3:
        return "", "", 0
    parts = list(each.values())
    mean = np.mean([part.probabilities for part in parts], axis=0)
    voted = as_predictions(mean, parts[0].targets)
    return difference_cells(each, dict.fromkeys(each, voted))


def corrupted_table(runs: Sequence[Path]) -> str:
    """Each run on its validation images, as they are and under six corruptions."""
    from scanwise.core.config import make_config
    from scanwise.deploy.bundle import Bundle
    from scanwise.metrics.evaluate import evaluate_predictions
    from scanwise.models.parts import set_views
    from scanwise.pipeline.runs import Run
    from scanwise.pipeline.train import reload_data
    from scanwise.prepare.corruptions import CORRUPTIONS, corrupt, intensity_span

    lines = [
        "| run | views | severity | accuracy | AUROC | log-loss |",
        "|---|---|---|---|---|---|",
    ]
    for path in runs:
        run, bundle = Run.open(path), Bundle.from_pretrained(path)
        dataset, split = reload_data(run, make_config(run.config.model_dump()))
        images, targets = dataset.images[split.val], dataset.targets[split.val]
        for tta in ("none", "flip", "flip+shift"):
            set_views(bundle.model, tta)
            for severity in (0, 1, 3):
                scores = []
                for kind in CORRUPTIONS if severity else ("none",):
                    worse = images
                    if severity:
                        worse = corrupt(images, kind, severity, span=intensity_span(images))
                    answers = bundle.probabilities_of(bundle.preprocessing.to_pixels(worse))
                    part = as_predictions(answers.astype(np.float32), targets)
                    found = evaluate_predictions(part, "val", num_resamples=100)
                    names = ("accuracy", "auroc_macro", "cross_entropy_loss")
                    scores.append([found[name]["value"] for name in names])
                cells = " | ".join(f"{value:.3f}" for value in np.mean(scores, axis=0))
                lines.append(f"| {path.name} | {tta} | {severity or 'as they are'} | {cells} |")
    return "\n".join(lines)


def write_log(path: Path) -> None:
    """Every training of the search as CSV: its recipe, its scores with ten views, its CPU time."""
    from scanwise.metrics.evaluate import evaluate_predictions

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = ("accuracy", "auroc_macro", "cross_entropy_loss")
    writer.writerow(["variant", "set", "seed", "n", *scores, "cpu_s", "recipe"])
    for file in sorted(RUNS.glob("*.npz")):
        variant, name, seed = file.stem.split("__")
        if variant not in VARIANTS:
            continue
        with np.load(file) as saved:
            part = as_predictions(saved["shift"], saved["y"])
            cpu_s, recipe = float(saved["cpu"]), json.dumps(asdict(VARIANTS[variant][1]))
        found = evaluate_predictions(part, "val", num_resamples=100)
        values = [f"{found[score]['value']:.4f}" for score in scores]
        writer.writerow([variant, name, seed, len(part), *values, f"{cpu_s:.0f}", recipe])
    write_text(path, text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="variants, separated by commas")
    parser.add_argument("--write", type=Path, help="page whose table is to be written")
    parser.add_argument("--corrupted", type=Path, nargs="+", help="runs to score on worse images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.corrupted:
        print(corrupted_table(given.corrupted))
        return
    chosen = given.only.split(",") if given.only else list(VARIANTS)
    for seed in range(given.seeds):
        for variant in chosen:
            for name in SETS:
                measure(variant, name, seed)
    text = table()
    print(text)
    if given.write:
        from pages import write_between

        write_between(given.write, START, END, text)
        write_log(given.write.with_name("recipes_search.csv"))


if __name__ == "__main__":
    main()
