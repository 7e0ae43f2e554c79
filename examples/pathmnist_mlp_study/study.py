"""Five networks on PathMNIST, one change at a time, three seeds: which is better, if any?

    python examples/pathmnist_mlp_study/study.py [--data FILE.npz] [--seeds 3] [--output FOLDER]

The same as the command in README.md; the notebook beside this file goes through it step by step.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from scanwise.cli import main as scanwise

HERE = Path(__file__).resolve().parent
VARIANTS = (
    "output_activation=sigmoid",  # one-vs-rest instead of softmax
    "lr=1e-4",
    "optimizer=sgd",  # with momentum 0.9, at the same learning rate
    "model=mlp:1024,512,512,256,128",
)


def command(data: str, seeds: int, output: Path, more: list[str]) -> list[str]:
    """The words of `scanwise compare`."""
    words = ["compare", str(HERE / "base.yaml"), data, "--seeds", str(seeds)]
    for variant in VARIANTS:
        words += ["--vary", variant]
    return [*words, "--output", str(output), *more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("SCANWISE_SHARED", "../shared")
    parser.add_argument("--data", default=f"{shared}/data/partial/pathmnist_train1000.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/pathmnist_mlp_study"))
    given, more = parser.parse_known_args()
    scanwise(command(given.data, given.seeds, given.output, more))


if __name__ == "__main__":
    main()
