"""How much of what is there does the duplicate audit find, and how much of what it finds is there?

Three measurements, printed as the tables of docs/audit.md:

1. DermaMNIST, where the lesion of every image is known: precision and recall of the test images
   (and lesions) that the audit calls leaked, from pixels alone and with the lesion as group.
2. Planted copies: images of three real sets are copied in twenty ways and hidden among the
   originals; the share found, by way.
3. False alarms: sets in which the truth about pairs is known.

    python benchmarks/audit_dermamnist.py [--shared ../shared] [--only derma|planted|alarms]
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Dataset, Split
from scanwise.data.copy_metric import recompressed
from scanwise.data.duplicates import (
    Duplicates,
    connected_rows,
    crossing_images,
    find_duplicates,
    leaked_rows,
)
from scanwise.data.load import load
from scanwise.data.splits import group_summary, make_split
from scanwise.data.views import Bytes, symmetries
from scanwise.metrics.intervals import wilson_interval

Copier = Callable[[Bytes, np.random.Generator], Bytes]


# --- DermaMNIST ----------------------------------------------------------------------------------


def audit_dermamnist(folder: Path) -> None:
    dataset = load(str(folder / "medmnist" / "dermamnist.npz"))
    with (folder / "medmnist" / "dermamnist_split_ids.csv").open(newline="") as stream:
        lesions = np.array([row["lesion_id"] for row in csv.DictReader(stream)])
    split = make_split(dataset)
    started = time.perf_counter()
    found = find_duplicates(dataset.images, dataset.targets)
    seconds = time.perf_counter() - started
    print(f"\n## DermaMNIST, {len(dataset):,} images, {seconds:.0f} s\n")
    cut = "none" if found.alike_cut is None else f"{found.alike_cut:.3f}"
    print(f"{len(found.exact)} exact and {len(found.near)} near pairs; cut for alike pairs {cut}\n")
    print("| pairs | n | of one lesion |\n|---|---|---|")
    for name, pairs in (
        ("copies", found.near[found.copies]),
        ("alike", found.near[~found.copies]),
        ("all", np.concatenate([found.exact, found.near])),
    ):
        print(f"| {name} | {len(pairs)} | {share(same(lesions, pairs), len(pairs))} |")
    truth = known_in_train(lesions, split)
    print("\n| test images leaked from train | flagged | precision | recall |\n|---|---|---|---|")
    flagged = in_train_by_pixels(found, split)
    print(f"| audit, pixels alone | {score(flagged, truth)} |")
    sure = without_alike(found)
    print(f"| its copies only | {score(in_train_by_pixels(sure, split), truth)} |")
    for most in (0, 2, 4):
        hashed = by_difference_hash(dataset.images, most)
        flagged_by_hash = rows_in_train(hashed, split)
        print(f"| difference hash, 8 symmetries, ≤ {most} bits | {score(flagged_by_hash, truth)} |")
    grouped = leaked_rows(found, split, tuple(lesions))["test"]
    by_group = set(grouped.tolist()) & set(truth)
    print(f"| audit with the lesion as group | – | – | {share(len(by_group), len(truth))} |")
    shared_lesions = set(lesions[split.train]) & set(lesions[split.test])
    confirmed = lesions_confirmed(found, split, lesions)
    named = set(lesions[flagged])
    print(
        f"\nlesions in train and test: {len(shared_lesions)}; found by pixels "
        f"{share(len(confirmed), len(shared_lesions))}; of the {len(named)} lesions named "
        f"{share(len(named & shared_lesions), len(named))} are shared"
    )
    summary = group_summary(replace(dataset, groups=tuple(lesions)), split)
    assert summary is not None
    both = [g for g in summary.shared if g.images["train"] and g.images["test"]]
    print(
        f"with the lesion as group: {len(both)} of {len(shared_lesions)} lesions, by construction"
    )
    print(f"images in an earlier split, by pixels: {crossing_images(found, split)}")
    clean = len(split.test) - len(leaked_rows(found, split)["test"])
    print(f"clean test: {clean:,} of {len(split.test):,} images")


def known_in_train(lesions: NDArray[np.str_], split: Split) -> list[int]:
    """Test rows whose lesion train shows too."""
    return split.test[np.isin(lesions[split.test], lesions[split.train])].tolist()


def in_train_by_pixels(found: Duplicates, split: Split) -> list[int]:
    """Test rows whose cluster holds a train row."""
    only_train = replace(split, val=np.empty(0, np.int64))
    return leaked_rows(found, only_train)["test"].tolist()


def without_alike(found: Duplicates) -> Duplicates:
    """The same findings without the pairs that are only alike."""
    pairs = np.concatenate([found.exact, found.near[found.copies]])
    return replace(found, clusters=connected_rows(found.num_images, pairs))


def lesions_confirmed(found: Duplicates, split: Split, lesions: NDArray[np.str_]) -> set[str]:
    """Lesions of which a cluster holds a train and a test image."""
    train, test = set(split.train.tolist()), set(split.test.tolist())
    confirmed = set()
    for rows in found.clusters:
        first = {str(lesions[row]) for row in rows if int(row) in train}
        confirmed |= first & {str(lesions[row]) for row in rows if int(row) in test}
    return confirmed


def by_difference_hash(images: NDArray[np.generic], most_bits: int) -> NDArray[np.int64]:
    """Pairs whose 64-bit difference hashes differ in few bits, the best of 8 symmetries."""
    grey = np.asarray(images, np.float32).mean(axis=3)

    def hashes(of: NDArray[np.float32]) -> NDArray[np.uint64]:
        small = [cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA) for image in of]
        bits = np.diff(np.stack(small), axis=2).reshape(len(of), 64) > 0
        return np.packbits(bits, axis=1).view(np.uint64).ravel()

    index = hashes(grey)
    pairs = []
    for seen in symmetries(grey[..., None]):
        turned = hashes(np.ascontiguousarray(seen[..., 0], dtype=np.float32))
        for start in range(0, len(index), 1000):
            differ = np.bitwise_count(turned[start : start + 1000, None] ^ index[None, :])
            first, second = np.nonzero(differ <= most_bits)
            pairs.append(np.stack([first + start, second], axis=1))
    found = np.sort(np.concatenate(pairs), axis=1)
    return np.unique(found[found[:, 0] != found[:, 1]], axis=0)


def rows_in_train(pairs: NDArray[np.int64], split: Split) -> list[int]:
    """Test rows that form a pair with a train row."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    crossing = np.isin(both[:, 0], split.test) & np.isin(both[:, 1], split.train)
    return np.unique(both[crossing, 0]).tolist()


def same(names: NDArray[np.str_], pairs: NDArray[np.int64]) -> int:
    return int((names[pairs[:, 0]] == names[pairs[:, 1]]).sum())


def score(flagged: list[int], truth: list[int]) -> str:
    hits = len(set(flagged) & set(truth))
    return f"{len(flagged)} | {share(hits, len(flagged))} | {share(hits, len(truth))}"


def share(hits: int, n: int) -> str:
    """'12 of 20, 0.600 [0.387, 0.781]' with the 95 % Wilson interval."""
    interval = wilson_interval(hits, n)
    if interval.value is None:
        return "–"
    return f"{hits} of {n}, {interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


# --- planted copies ------------------------------------------------------------------------------


def mirrored(image: Bytes, rng: np.random.Generator) -> Bytes:
    return image[:, ::-1]


def quarter_turned(image: Bytes, rng: np.random.Generator) -> Bytes:
    return np.rot90(image, rng.integers(1, 4))


def jpeg(quality: int) -> Copier:
    return lambda image, rng: recompressed(np.ascontiguousarray(image), quality)


def brighter(factor: float) -> Copier:
    return lambda image, rng: np.clip(image * factor, 0, 255).astype(np.uint8)


def less_contrast(image: Bytes, rng: np.random.Generator) -> Bytes:
    return np.clip((image - 128.0) * 0.8 + 128, 0, 255).astype(np.uint8)


def noisy(image: Bytes, rng: np.random.Generator) -> Bytes:
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def halved(image: Bytes, rng: np.random.Generator) -> Bytes:
    side = image.shape[0]
    small = cv2.resize(image, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8).reshape(image.shape)


def cropped(share_cut: float) -> Copier:
    """A square crop anywhere, enlarged to the old size."""

    def copy(image: Bytes, rng: np.random.Generator) -> Bytes:
        side = image.shape[0]
        kept = side * (1 - share_cut)
        x, y = rng.uniform(0, side - kept, 2)
        zoom = side / kept
        return moved(image, np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]]))

    return copy


def turned(angle_deg: float, border: int = cv2.BORDER_REFLECT_101) -> Copier:
    def copy(image: Bytes, rng: np.random.Generator) -> Bytes:
        centre = ((image.shape[0] - 1) / 2,) * 2
        angle = angle_deg * rng.choice([-1, 1])
        return moved(image, cv2.getRotationMatrix2D(centre, angle, 1), border)

    return copy


def moved(image: Bytes, matrix: NDArray[np.float64], border: int = cv2.BORDER_REFLECT_101) -> Bytes:
    side = image.shape[0]
    result = cv2.warpAffine(np.ascontiguousarray(image), matrix, (side, side), borderMode=border)
    return np.asarray(result, np.uint8).reshape(image.shape)


def both(first: Copier, second: Copier) -> Copier:
    return lambda image, rng: second(first(image, rng), rng)


COPIERS: dict[str, Copier] = {
    "mirrored": mirrored,
    "quarter turn": quarter_turned,
    "JPEG quality 90": jpeg(90),
    "JPEG quality 75": jpeg(75),
    "JPEG quality 60": jpeg(60),
    "mirrored, JPEG 60": both(mirrored, jpeg(60)),
    "10 % brighter": brighter(1.1),
    "20 % brighter (clips)": brighter(1.2),
    "20 % darker": brighter(0.8),
    "contrast × 0.8": less_contrast,
    "noise, 5 grey levels": noisy,
    "half the resolution": halved,
    "5 % cropped": cropped(0.05),
    "10 % cropped": cropped(0.10),
    "20 % cropped": cropped(0.20),
    "5° turned": turned(5),
    "10° turned": turned(10),
    "5° turned, black corners": turned(5, cv2.BORDER_CONSTANT),
    "18° turned, black corners": turned(18, cv2.BORDER_CONSTANT),
    "30° turned": turned(30),
}


def plant(folder: Path, wanted: int = 200) -> None:
    """Copies have sources of their own, so that no copy is found by way of another one."""
    names = ("breastmnist", "pneumoniamnist", "dermamnist")
    results = {}
    for name in names:
        dataset = load(str(folder / "medmnist" / f"{name}.npz"))
        # A tenth of the set (20 copies a way at least), so that it stays the set that it is.
        each = max(20, len(dataset) // (10 * len(COPIERS)))
        rounds = -(-wanted // each)
        before = find_duplicates(dataset.images, dataset.targets).cluster_of_row()
        hits = np.zeros((len(COPIERS), 2), int)
        new = 0
        for seed in range(rounds):
            part, extra = plant_once(dataset, each, seed, before)
            hits += part
            new += extra
        results[name] = hits
        print(
            f"{name}: {rounds} rounds of {each} copies a way; originals newly called copies: {new}"
        )
    print("\n## Planted copies found\n\n| way | " + " | ".join(names) + " |\n|---|---|---|---|")
    for k, way in enumerate(COPIERS):
        cells = (share(*results[name][k].tolist()) for name in names)
        print(f"| {way} | {' | '.join(cells)} |")


def plant_once(
    dataset: Dataset, each: int, seed: int, before: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Hits and number of copies by way, and pairs of originals that only the copies brought up."""
    rng = np.random.default_rng(seed)
    images = np.asarray(dataset.images)
    sources = rng.permutation(len(images))[: each * len(COPIERS)]
    copiers = [copier for copier in COPIERS.values() for _ in range(each)]
    copies = [copy(images[row], rng) for copy, row in zip(copiers, sources, strict=True)]
    targets = np.concatenate([dataset.targets, dataset.targets[sources]])
    found = find_duplicates(np.concatenate([images, np.stack(copies)]), targets)
    cluster = found.cluster_of_row()
    ours = cluster[len(images) :]
    hit = ((ours >= 0) & (ours == cluster[sources])).reshape(len(COPIERS), each)
    pairs = found.near[found.copies & (found.near < len(images)).all(axis=1)]
    new = (before[pairs[:, 0]] < 0) | (before[pairs[:, 0]] != before[pairs[:, 1]])
    return np.stack([hit.sum(axis=1), np.full(len(hit), each)], axis=1), int(new.sum())


# --- false alarms --------------------------------------------------------------------------------


def count_alarms(folder: Path) -> None:
    print(
        "\n## False alarms\n\n| data | images | pairs | what is known of them |\n|---|---|---|---|"
    )
    for n in (1500, 3000):
        dataset = load(f"demo:cells?n={n}")
        found = find_duplicates(dataset.images, dataset.targets)
        pairs = len(found.near) + len(found.exact)
        print(f"| demo:cells | {n:,} | {pairs} | every picture is painted anew: all are false |")
    chest = load(str(folder / "partial" / "chestmnist_subset1000.npz"))
    found = find_duplicates(chest.images, chest.targets)
    crossing = chest.given_split[found.near[:, 0]] != chest.given_split[found.near[:, 1]]
    parts = [np.mean(chest.given_split == name) for name in ("train", "val", "test")]
    chance = 1 - float(np.square(parts).sum())
    print(
        f"| ChestMNIST, part | 1,000 | {len(found.near)} | splits share no patient: "
        f"{crossing.sum()} pairs cross splits, chance pairs would {chance:.0%} of the time |"
    )
    for name, options, noun in (
        ("folders/ham_287/manifest.csv", {"group": "group"}, "one lesion"),
        ("folders/bccd_287", {"group_regex": r"BloodImage_(\d+)"}, "one smear"),
    ):
        dataset = load(str(folder / name), **options)
        found = find_duplicates(dataset.images, dataset.targets)
        groups = np.array(dataset.groups)
        alike = same(groups, found.near)
        print(f"| {dataset.name} | {len(dataset)} | {len(found.near)} | {alike} of {noun} |")
    path = load(str(folder / "partial" / "pathmnist_train1000.npz"))
    found = find_duplicates(path.images, path.targets)
    print(f"| PathMNIST, part | 1,000 | {len(found.near) + len(found.exact)} | nothing |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", choices=("derma", "planted", "alarms"))
    options = parser.parse_args()
    folder = options.shared / "data"
    if options.only in (None, "derma"):
        audit_dermamnist(folder)
    if options.only in (None, "alarms"):
        count_alarms(folder)
    if options.only in (None, "planted"):
        plant(folder)


if __name__ == "__main__":
    main()
