"""Does the audit find 99 % of planted copies? Mirrored, turned, re-compressed, cropped, re-lit.

Images of five real sets are copied in the ways that a copy usually takes and hidden among the
originals; counted are the copies that share a cluster with their original, and the pairs that join
two different pictures. The table goes into docs/audit.md between its markers.

    python benchmarks/planted_duplicates.py [--shared ../shared] [--only NAME] [--no-write]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audit_dermamnist import COPIERS, Copier, brighter, jpeg, share
from pages import write_between
from scanwise.data.duplicates import find_duplicates
from scanwise.data.load import load
from scanwise.data.views import Bytes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audit.md"
BEGIN, END = "<!-- planted: begin -->", "<!-- planted: end -->"
WANTED = 0.99
COPIES = 100  # of each way and set, at least
PLANTED_SHARE = 0.5  # copies in a round, for each original: most of the set stays original
CAP = 1200  # originals of a set, drawn by chance: the search takes n² time
SETS = {
    "BreastMNIST": "medmnist/breastmnist.npz",
    "PneumoniaMNIST": "medmnist/pneumoniamnist.npz",
    "DermaMNIST": "medmnist/dermamnist.npz",
    "bccd_287": "folders/bccd_287",
    "ham_287": "folders/ham_287",
}


def upside_down(image: Bytes, rng: np.random.Generator) -> Bytes:
    return image[::-1]


WAYS: dict[str, Copier] = {
    "mirrored left-right": COPIERS["mirrored"],
    "mirrored top-bottom": upside_down,
    "turned by 90, 180 or 270°": COPIERS["quarter turn"],
    "JPEG quality 90": jpeg(90),
    "JPEG quality 70": jpeg(70),
    "JPEG quality 50": jpeg(50),
    "JPEG quality 30": jpeg(30),
    "cropped by 5 %": COPIERS["5 % cropped"],
    "cropped by 10 %": COPIERS["10 % cropped"],
    "20 % darker": brighter(0.8),
    "10 % darker": brighter(0.9),
    "10 % brighter": brighter(1.1),
    "20 % brighter (clips)": brighter(1.2),
}


@dataclass(frozen=True, eq=False)
class Counted:
    """Of one set: copies found and planted by way (ways, 2), and pairs of different pictures."""

    name: str
    originals: int
    hits: NDArray[np.int64]
    false_pairs: int
    pairs: int
    seconds: float


def count(name: str, folder: Path) -> Counted:
    """Plant copies in rounds until every way has COPIES of them."""
    dataset = load(str(folder / SETS[name]))
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(dataset))[:CAP])
    images, targets = np.asarray(dataset.images[rows]), dataset.targets[rows]
    each = max(1, int(len(rows) * PLANTED_SHARE) // len(WAYS))
    started = time.process_time()
    before = find_duplicates(images, targets).cluster_of_row()
    parts = [plant(images, targets, before, each, rng) for _ in range(-(-COPIES // each))]
    hits = np.sum([part[0] for part in parts], axis=0)
    wrong, pairs = (int(sum(part[k] for part in parts)) for k in (1, 2))
    return Counted(name, len(rows), hits, wrong, pairs, time.process_time() - started)


def plant(
    images: Bytes,
    targets: NDArray[np.int64],
    before: NDArray[np.int64],
    each: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], int, int]:
    """One round: hits and number by way (ways, 2), pairs of different pictures, pairs in all.

    Copies have sources of their own, so that no copy is found by way of another one. A pair is of
    different pictures if their originals were no cluster `before` anything was planted.
    """
    n = len(images)
    sources = rng.permutation(n)[: each * len(WAYS)]
    copiers = [copier for copier in WAYS.values() for _ in range(each)]
    copies = [copy(images[row], rng) for copy, row in zip(copiers, sources, strict=True)]
    found = find_duplicates(
        np.concatenate([images, np.stack(copies)]), np.concatenate([targets, targets[sources]])
    )
    cluster = found.cluster_of_row()
    hit = (cluster[n:] >= 0) & (cluster[n:] == cluster[sources])
    original = np.concatenate([np.arange(n), sources])
    pairs = original[np.concatenate([found.exact, found.near])]
    apart = pairs[:, 0] != pairs[:, 1]
    first, second = before[pairs[apart, 0]], before[pairs[apart, 1]]
    wrong = int(((first < 0) | (first != second)).sum())
    by_way = hit.reshape(len(WAYS), each).sum(axis=1)
    return np.stack([by_way, np.full(len(WAYS), each)], axis=1), wrong, len(pairs)


def table(results: list[Counted]) -> str:
    """Ways by sets, then what was found between different pictures."""
    head = " | ".join(f"{each.name} ({each.originals:,})" for each in results)
    lines = [f"| way | {head} | all |", "|---" * (len(results) + 2) + "|"]
    for k, way in enumerate(WAYS):
        total = np.sum([each.hits[k] for each in results], axis=0)
        cells = [share(*each.hits[k].tolist()) for each in results] + [marked(*total.tolist())]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    hits = [each.hits.sum(axis=0) for each in results]
    cells = [marked(*each.tolist()) for each in [*hits, np.sum(hits, axis=0)]]
    lines.append(f"| **all ways** | {' | '.join(cells)} |")
    wrong = [f"{each.false_pairs} of {each.pairs:,}" for each in results]
    total_wrong = sum(each.false_pairs for each in results)
    wrong.append(f"{total_wrong} of {sum(each.pairs for each in results):,}")
    lines.append(f"| pairs of different pictures | {' | '.join(wrong)} |")
    return "\n".join(lines)


def marked(hits: int, n: int) -> str:
    """The share, with a mark where it is below what was asked for."""
    return share(hits, n) + ("" if hits >= WANTED * n else " (below 0.99)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", choices=tuple(SETS))
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    options = parser.parse_args()
    names = [options.only] if options.only else list(SETS)
    results = [count(name, options.shared / "data") for name in names]
    text = table(results)
    print(text)
    print("\nCPU: " + ", ".join(f"{each.name} {each.seconds:.0f} s" for each in results))
    if not (options.no_write or options.only):
        write_between(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
