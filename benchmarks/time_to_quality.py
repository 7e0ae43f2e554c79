"""What `scanwise train` reaches in how much CPU time: quick, default, best, and what they stand by.

    python benchmarks/time_to_quality.py [--jobs 2] [--precision bf16] [--only breast]
        [--write docs/recipes.md]

Each recipe is the command as a user types it, in a process of its own with one thread; CPU seconds
are those of the whole process, imports, checks, baselines and report included (of `best` with all
its trainings; it is made once, of seeds 0 to 2, so that its interval is over images alone). Beside
them, with the same seeds and the same official splits:

- the MedMNIST reference (ResNet-18, Adam 1e-3, x0.1 at half and three quarters, best epoch by
  validation AUC) for as long as `default` took (`--preset reference --time-limit`);
- the sketch that these recipes began from (../shared/prototypes/small_net.py), as it stands, at its
  longest setting.

Recipes were chosen on validation alone (benchmarks/recipes.py); here each run opens test once. A
run that lies in runs/quality already is kept, with its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scanwise.metrics.compare import compare
from scanwise.metrics.over_seeds import over_seeds
from scanwise.metrics.predictions import Predictions, make_predictions, read_predictions

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SCANWISE_SHARED", ROOT.parent / "shared"))
RUNS = ROOT / "runs" / "quality"
SEEDS = (0, 1, 2)
START, END = "<!-- quality: start -->", "<!-- quality: end -->"
REFERENCE, SKETCH, BEST = "ResNet-18, same time", "the sketch", "best"


@dataclass(frozen=True)
class Place:
    """A data set, and what was published on it at 28 px (accuracy, AUROC)."""

    data: str
    flags: tuple[str, ...] = ()
    lines: tuple[tuple[str, float, float], ...] = ()
    sketch: tuple[str, int] | None = None  # its name of the set, and epochs


PLACES = {
    "PneumoniaMNIST": Place(
        "data/medmnist/pneumoniamnist.npz",
        lines=(("ResNet-18", 0.854, 0.944), ("ResNet-50", 0.854, 0.948), ("best", 0.946, 0.991)),
        sketch=("pneumoniamnist", 40),
    ),
    "BreastMNIST": Place(
        "data/medmnist/breastmnist.npz",
        lines=(("ResNet-18", 0.863, 0.901), ("ResNet-50", 0.812, 0.857), ("best", 0.865, 0.919)),
        sketch=("breastmnist", 60),
    ),
    "DermaMNIST": Place(
        "data/medmnist/dermamnist.npz",
        lines=(("ResNet-18", 0.735, 0.917), ("ResNet-50", 0.735, 0.913), ("best", 0.768, 0.927)),
        sketch=("dermamnist", 20),
    ),
    "PathMNIST, 1,000 images": Place("data/partial/pathmnist_train1000.npz"),
    "ChestMNIST, 1,000 images": Place("data/partial/chestmnist_subset1000.npz"),
    "blood cells (bccd_287)": Place(
        "data/folders/bccd_287", ("--group-regex", r"BloodImage_(\d+)")
    ),
}
TUNED = tuple(name for name, place in PLACES.items() if place.lines)
METHODS: dict[str, tuple[str, ...]] = {
    "quick": ("--preset", "quick"),
    "default": (),
    BEST: ("--preset", "best", "--jobs", "1"),
    REFERENCE: ("--preset", "reference"),
    SKETCH: (),
}


@dataclass(frozen=True)
class Job:
    """One training, or the trainings of one `best`."""

    place: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        words = f"{self.place} {self.method} {self.seed}".lower()
        return RUNS / "".join(c if c.isalnum() else "-" for c in words)

    @property
    def took(self) -> Path:
        return self.folder.with_suffix(".json")

    def cpu_s(self) -> float:
        return float(json.loads(self.took.read_text(encoding="utf-8"))["cpu_s"])

    def test(self) -> Predictions:
        folder = self.folder / "ensemble" if self.method == BEST else self.folder
        task = "multilabel" if "Chest" in self.place else "multiclass"
        return read_predictions(folder / "predictions.csv", task=task).of_split("test")


def command(job: Job, precision: str, limit_s: float | None) -> list[str]:
    place = PLACES[job.place]
    if job.method == SKETCH:
        assert place.sketch is not None
        like = Job(job.place, "default", job.seed).folder
        name, epochs = place.sketch
        return [sys.executable, __file__, "--sketch", name, str(epochs), str(job.seed),
                str(like), str(job.folder)]  # fmt: skip
    words = [sys.executable, "-m", "scanwise", "train", str(SHARED / place.data), *place.flags]
    words += [*METHODS[job.method], "--seed", str(job.seed), "--threads", "1"]
    words += ["--output", str(job.folder), "--force", "--precision", precision]
    return words if limit_s is None else [*words, "--time-limit", f"{limit_s:.0f}s"]


def run(job: Job, precision: str) -> None:
    """Run a job that was not run before, and note its CPU seconds."""
    if job.took.is_file():
        return
    limit_s = Job(job.place, "default", job.seed).cpu_s() if job.method == REFERENCE else None
    RUNS.mkdir(parents=True, exist_ok=True)
    environ = os.environ | {"OMP_NUM_THREADS": "1", "SCANWISE_OFFLINE": "1"}
    with job.folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command(job, precision, limit_s), env=environ, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)  # with all its own finished processes
    if status:
        raise SystemExit(f"{job}: see {log.name}")
    found = {"cpu_s": usage.ru_utime + usage.ru_stime, "precision": precision}
    job.took.write_text(json.dumps(found), encoding="utf-8")
    print(f"  {job.place}, {job.method}, seed {job.seed}: {found['cpu_s']:.0f} CPU s", flush=True)


def sketch_worker(name: str, epochs: str, seed: str, like: str, folder: str) -> None:
    """Run the sketch as it stands, and write its test answers as predictions.csv."""
    import runpy

    import torch

    from scanwise.metrics.predictions import write_predictions

    script = SHARED / "prototypes" / "small_net.py"
    os.chdir(script.parent)
    sys.argv = [str(script), name, epochs, seed, "32"]
    made = runpy.run_path(str(script))
    network, images = made["ema"].eval(), made["Xt"]
    with torch.inference_mode():
        parts = [
            (network(x).softmax(1) + network(x.flip(3)).softmax(1)) / 2 for x in images.split(512)
        ]
    known = read_predictions(Path(like) / "predictions.csv").of_split("test")
    assert np.array_equal(known.targets, made["yt"].numpy())  # the same images, in this order
    answers = torch.cat(parts).double()
    answers = (answers / answers.sum(1, keepdim=True)).numpy()
    found = make_predictions(known.sample, known.split, known.targets, answers, known.class_names)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_predictions(Path(folder) / "predictions.csv", found)


def table(name: str) -> list[str]:
    """A data set's rows: every method over the seeds, and what was published."""
    place, lines = PLACES[name], []
    metrics = ("auroc_macro",) if "Chest" in name else ("accuracy", "auroc_macro")
    done = {
        method: [seed for seed in SEEDS if Job(name, method, seed).took.is_file()]
        for method in METHODS
    }
    methods = [method for method, seeds in done.items() if seeds]
    against = SKETCH if SKETCH in methods else REFERENCE
    heads = [{"accuracy": "accuracy", "auroc_macro": "AUROC"}[metric] for metric in metrics]
    lines += [f"### {name}", ""]
    lines += [
        "| | CPU seconds | " + " | ".join(f"test {head} [95 %] (seeds)" for head in heads)
        + " | " + " | ".join(f"{head}, minus {against}'s" for head in heads) + " |",
        "|---|---|" + "---|" * (2 * len(heads)),
    ]  # fmt: skip
    for method in methods:
        jobs = [Job(name, method, seed) for seed in done[method]]
        base = [Job(name, against, seed).test() for seed in done.get(against, ())]
        parts = [job.test() for job in jobs]
        cells = [method, f"{statistics.median(job.cpu_s() for job in jobs):.0f}"]
        for metric in metrics:
            interval, by_seed = over_seeds(parts, metric)
            seeds = ", ".join(f"{value:.3f}" for value in by_seed)
            cells.append(f"{interval} ({seeds})")
        pairs = len(base) if method == BEST else min(len(base), len(parts))
        others = parts * pairs if method == BEST else parts[:pairs]  # one vote, beside each seed
        cells += [
            compare(base[:pairs], others, metric).difference.signed()
            if pairs and method != against
            else ""
            for metric in metrics
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for who, accuracy, auroc in place.lines:
        lines.append(f"| published, {who} |  | {accuracy:.3f} | {auroc:.3f} |  |  |")
    return [*lines, ""]


def plan(chosen: Sequence[str]) -> list[list[Job]]:
    """Jobs in turns: what others are measured by comes first, the sets tuned on before the rest."""
    turns = []
    for names in ([n for n in chosen if n in TUNED], [n for n in chosen if n not in TUNED]):
        for methods in (("default", "quick"), (REFERENCE, SKETCH, BEST)):
            turns.append(
                [
                    Job(name, method, seed)
                    for seed in SEEDS
                    for name in names
                    for method in methods
                    if (name in TUNED or method != SKETCH) and (seed == 0 or method != BEST)
                ]
            )
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--precision", default="auto", help="as of scanwise train")
    parser.add_argument("--only", default="", help="data sets whose name has this in it")
    parser.add_argument("--write", type=Path, help="page whose tables are to be written")
    parser.add_argument(
        "--tables-only", action="store_true", help="of what lies there; run nothing"
    )
    parser.add_argument("--sketch", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sketch:
        sketch_worker(*given.sketch)
        return
    import workload
    from pages import write_between

    chosen = [name for name in PLACES if given.only.lower() in name.lower()]
    began = time.perf_counter()
    for turn in [] if given.tables_only else plan(chosen):
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda job: run(job, given.precision), turn))
    print(f"{time.perf_counter() - began:.0f} s in all")
    begun = [name for name in chosen if Job(name, "default", SEEDS[0]).took.is_file()]
    text = "\n".join(line for name in begun for line in table(name)) + workload.machine() + "."
    print(text)
    if given.write:
        write_between(given.write, START, END, text)


if __name__ == "__main__":
    main()
