"""How well are the twelve 2-D MedMNIST sets told from one another as unknown inputs?

    python benchmarks/cross_feed.py [--shared ../shared] [--epochs 3]

Two tables, written to docs/unknown-inputs.md: rows of small networks trained on the labelled sets
at hand, and a full 12 x 12 feed on frozen ImageNet features (MobileNetV2, 96 px) of 400 unlabelled
images a set, half of which are the reference and half the test. On the diagonal 0.5 is expected.
Finished trainings in runs/cross_feed are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import scanwise as sw
from pages import write_between
from scanwise.core.types import Interval
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.unknown import fit_gaussians, fit_knn, separation
from scanwise.models.backbones import open_backbone
from scanwise.pipeline.train import reload_data

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "unknown-inputs.md"
START, END = "<!-- cross_feed: start -->", "<!-- cross_feed: end -->"
NAMES = (
    "blood", "breast", "chest", "derma", "oct", "organa", "organc", "organs", "path", "pneumonia",
    "retina", "tissue",
)  # fmt: skip
LABELLED = {
    "breast": "medmnist/breastmnist.npz",
    "chest": "partial/chestmnist_subset1000.npz",
    "derma": "medmnist/dermamnist.npz",
    "path": "partial/pathmnist_train1000.npz",
    "pneumonia": "medmnist/pneumoniamnist.npz",
}
METHODS = ("mahalanobis", "knn 1", "knn 10", "knn 50")
Rows = dict[str, dict[str, dict[str, Interval]]]  # method -> reference set -> foreign set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = asked.shared / "data"
    sets = {name: montage(data / "partial", name) for name in NAMES}
    trained = trained_rows(sets, data, asked.epochs)
    frozen = frozen_rows(sets, asked.shared / "weights" / "mobilenet_v2_imagenet")
    text = "\n\n".join(
        [
            f"Networks small_resnet:16, {asked.epochs} epochs, seed 0, features of up to 2,000 "
            "training images; known: the test split; foreign: 400 images a set.",
            means_table(trained),
            matrix(trained["mahalanobis"]),
            "Frozen MobileNetV2 features (ImageNet, 96 px, no class is known): 200 images of a set "
            "are the reference, its other 200 are known, foreign are 200 of each other set.",
            means_table(frozen),
            matrix(frozen["mahalanobis"]),
        ]
    )
    print(text)
    write_between(PAGE, START, END, text)


def montage(folder: Path, name: str) -> NDArray[np.uint8]:
    """400 images (400, 28, 28, c)."""
    images = np.load(folder / f"{name}mnist_montage400_unlabelled.npz")["images"]
    return images[..., None] if images.ndim == 3 else images


def trained_rows(sets: dict[str, NDArray[np.uint8]], data: Path, epochs: int) -> Rows:
    """Known test images against each montage, by networks trained here."""
    rows: Rows = {method: {} for method in METHODS}
    for name, file in LABELLED.items():
        folder = ROOT / "runs" / "cross_feed" / f"{name}-{epochs}"
        if not (folder / "bundle").is_dir():
            sw.train(
                str(data / file), model="small_resnet:16", epochs=epochs, report=False,
                output=str(folder), force=True,
            )  # fmt: skip
        run = sw.Run.open(folder)
        bundle = Bundle.from_pretrained(folder)
        dataset, split = reload_data(run, run.config)
        train = np.sort(np.random.default_rng(0).permutation(split.train)[:2000])
        classes = dataset.targets[train]
        if dataset.task == "multilabel":
            classes = np.zeros(len(train), np.int64)
        known = bundle.features_of_rows(dataset, split.test)
        foreign = {
            other: bundle.outputs_of(as_channels(images, bundle.preprocessing.channels)).features
            for other, images in sets.items()
        }
        fill(rows, name, bundle.features_of_rows(dataset, train), classes, known, foreign)
    return rows


def as_channels(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])[..., None]


def frozen_rows(sets: dict[str, NDArray[np.uint8]], weights: Path) -> Rows:
    """Half of each set against its other half and all other sets."""
    backbone = open_backbone(f"hf:{weights}").module
    order = np.random.default_rng(0).permutation(400)
    features = {}
    for name, images in sets.items():
        batch = torch.from_numpy(as_channels(images, 3)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            parts = [
                F.interpolate(part, size=(96, 96), mode="bilinear") for part in batch.split(50)
            ]
            features[name] = torch.cat([backbone(part) for part in parts]).numpy()[order]
    rows: Rows = {method: {} for method in METHODS}
    for name, own in features.items():
        foreign = {other: found[200:] for other, found in features.items()}
        fill(rows, name, own[:200], np.zeros(200, np.int64), own[200:], foreign)
    return rows


def fill(
    rows: Rows,
    name: str,
    train: NDArray[np.float32],
    classes: NDArray[np.int64],
    known: NDArray[np.float32],
    foreign: dict[str, NDArray[np.float32]],
) -> None:
    scorers = {f"knn {k}": fit_knn(train, k) for k in (1, 10, 50)}
    for method in METHODS:
        scorer = scorers.get(method) or fit_gaussians(train, classes)
        own = scorer.scores(known)
        rows[method][name] = {
            other: separation(own, scorer.scores(found), num_resamples=200)
            for other, found in foreign.items()
        }


def means_table(rows: Rows) -> str:
    """Mean AUROC of each method over all pairs of different sets, by rows of reference sets."""
    lines = ["| score | " + " | ".join(rows[METHODS[0]]) + " | mean | lowest pair |"]
    lines.append("|" + "---|" * (len(rows[METHODS[0]]) + 3))
    for method, of_method in rows.items():
        means = {
            name: [float(found.value or 0) for other, found in row.items() if other != name]
            for name, row in of_method.items()
        }
        cells = [f"{np.mean(values):.3f}" for values in means.values()]
        every = np.concatenate(list(means.values()))
        lines.append(
            f"| {method} | {' | '.join(cells)} | **{every.mean():.3f}** | {every.min():.3f} |"
        )
    return "\n".join(lines)


def matrix(rows: dict[str, dict[str, Interval]]) -> str:
    """AUROC with its 95 % interval: a row a reference set, a column a foreign set."""
    lines = ["| Mahalanobis | " + " | ".join(NAMES) + " |", "|" + "---|" * (len(NAMES) + 1)]
    for name, row in rows.items():
        cells = []
        for other in NAMES:
            found = row[other]
            text = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
            cells.append(f"*{text}*" if other == name else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
