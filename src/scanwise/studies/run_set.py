"""Many runs put in order: by data set, by test images, by method (same settings, other seeds)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scanwise.core.errors import DataError, IntegrityError, RunError
from scanwise.core.files import sha256_file
from scanwise.core.types import Interval
from scanwise.data.medmnist_table import MEDMNIST
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.metrics.verify import verify_metrics
from scanwise.pipeline.baselines import read_baselines
from scanwise.pipeline.runs import SUMMARY_PAGE, Run
from scanwise.report.build import judge, report_json, said_sha256
from scanwise.report.run_files import RunFiles, read_run
from scanwise.report.verdict import as_interval
from scanwise.studies.run_comparison import NO_FACTOR, OF_THE_SPLIT
from scanwise.studies.run_table import find_runs

# Besides: what other settings follow from, and what is compared by itself.
_NO_METHOD = NO_FACTOR | OF_THE_SPLIT | {"data", "seed", "preset", "time_limit", "model"}
Verdict = Literal["ok", "no_skill", "collapsed", "not measured"]


@dataclass(frozen=True, eq=False)
class RunEntry:
    """One run: its files, its predictions with groups, and whether it came to its end."""

    name: str  # unique among the runs that stand together
    files: RunFiles
    predictions: Predictions | None
    is_finished: bool
    report: Mapping[str, Any]  # report.json

    @property
    def test(self) -> Mapping[str, Any] | None:
        """The test split of metrics.json; None where test was not opened or the run not ended."""
        return self.files.splits.get("test") if self.is_finished else None

    @property
    def verdict(self) -> Verdict:
        """`skill` of the test split."""
        skill = str((self.test or {}).get("skill"))
        return skill if skill in ("ok", "no_skill", "collapsed") else "not measured"  # type: ignore[return-value]

    @property
    def seed(self) -> int | None:
        seed = self.files.config.get("seed")
        return int(seed) if seed is not None else None

    @property
    def model(self) -> str:
        found = self.files.training.get("model") or self.files.config.get("model")
        return str(found or "unknown model")

    @property
    def data_name(self) -> str:
        return str(self.files.dataset.get("name") or "unknown data")

    @property
    def data_key(self) -> str:
        """Equal for equal images in equal order."""
        return str(self.files.dataset.get("content_sha256") or self.data_name)

    def score(self, metric: str) -> Interval:
        """A number of the test split, or "not measured"."""
        return as_interval((self.test or {}).get(metric))

    def test_rows(self) -> Predictions:
        """The predictions of the test split."""
        if self.test is None or self.predictions is None:
            raise DataError(f"{self.name}: test was not scored.")
        return self.predictions.of_split("test")

    def test_key(self) -> str:
        """Equal where two runs were scored on the same test images with the same labels."""
        rows = self.test_rows()
        digest = hashlib.sha256("\n".join((*rows.class_names, "", *rows.sample)).encode())
        digest.update(rows.targets.tobytes())
        return digest.hexdigest()

    def settings(self) -> dict[str, Any]:
        """What makes the method: the model, the resolved settings, the split; not the seed."""
        found = {k: v for k, v in self.files.config.items() if k not in _NO_METHOD}
        return {"model": self.model, **found, "split": self.files.split_sha256}


@dataclass(frozen=True, eq=False)
class Method:
    """Runs that differ in nothing but the seed, scored on the same test images."""

    name: str
    runs: tuple[RunEntry, ...]  # one a seed

    def values(self, metric: str) -> list[float]:
        """The score of each seed; seeds for which it can't be evaluated are left out."""
        found = (run.score(metric).value for run in self.runs)
        return [value for value in found if value is not None]

    @property
    def is_sound(self) -> bool:
        """Every seed shows skill; a collapsed model is never called best."""
        return all(run.verdict == "ok" for run in self.runs)

    @property
    def title(self) -> str:
        """'mlp:32 (run a)', 'mlp:32 (2 seeds: runs a, b)'"""
        names = ", ".join(run.name for run in self.runs)
        if len(self.runs) == 1:
            return f"{self.name} (run {names})"
        return f"{self.name} ({len(self.runs)} seeds: runs {names})"


@dataclass(frozen=True, eq=False)
class TestSet:
    """Runs that were scored on the same test images: only these are ever compared."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    runs: tuple[RunEntry, ...]
    methods: tuple[Method, ...]
    n: int
    key: str


@dataclass(frozen=True, eq=False)
class DataSet:
    """Runs on the same images."""

    folder: str  # lower case, unique
    shares_name: bool
    runs: tuple[RunEntry, ...]
    test_sets: tuple[TestSet, ...]

    @property
    def facts(self) -> Mapping[str, Any]:
        """dataset.json of the first run that has one."""
        return next((run.files.dataset for run in self.runs if run.files.dataset), {})

    @property
    def title(self) -> str:
        """Its name ("OCTMNIST"); with the folder where other images have the same name."""
        known = MEDMNIST.get(str(self.facts.get("benchmark") or ""))
        name = known.title if known else str(self.facts.get("name") or self.folder)
        return f"{name} ({self.folder})" if self.shares_name else name


def runs_among(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The run folders among `paths` and below them, each once.

    Raises:
        RunError: If a path does not exist, or neither is a run nor holds one.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = list(find_runs(path))
        if (path / SUMMARY_PAGE).is_file():
            raise RunError(f"{path} is a summary of runs; give the folders of the runs themselves.")
        if not below:
            what = "is no run folder and holds none" if path.exists() else "does not exist"
            raise RunError(
                f"{path} {what}; give folders that `scanwise train` wrote (they have a "
                "config.yaml and a plan.yaml), or a folder of such."
            )
        for run in below:
            found.setdefault(run.resolve(), run)
    return tuple(found.values())


def read_entry(folder: Path, name: str, bundle: Path) -> RunEntry:
    """Read a run and recompute its numbers; one that did not end has none.

    Args:
        folder: The run folder, or a copy of its files.
        name: What it is called beside the others.
        bundle: Where its bundle lies.

    Raises:
        RunError: If a file can't be read.
        IntegrityError: If a number does not follow from predictions.csv, or report.json was edited.
    """
    files = read_run(folder)
    needed = ["metrics.json", "predictions.csv"]
    needed += ["report.json"] if files.config.get("report", True) else []
    ended = [*(folder / name for name in needed), bundle / "SHA256SUMS"]
    if not all(path.is_file() for path in ended):
        return RunEntry(name, replace(files, predictions=None), None, False, {})
    try:
        predictions = read_predictions(
            folder / "predictions.csv", folder / "splits.csv", files.dataset.get("task")
        )
    except DataError as error:
        raise IntegrityError(f"predictions are not as they were written: {error}") from error
    _check_numbers(folder, files, predictions)
    return RunEntry(name, files, predictions, True, _read_report(folder, files))


def _read_report(folder: Path, files: RunFiles) -> Mapping[str, Any]:
    """report.json; of a run without pages what it would say."""
    if not (folder / "report.json").is_file():
        return report_json(files, judge(files, draw=False))
    report = Run(folder).read_json("report.json", "`scanwise report RUN` writes it")
    if (report.get("sha256") or {}).get("report.json") != said_sha256(report):
        raise IntegrityError(
            f"{folder}/report.json was edited; `scanwise report RUN` writes it anew."
        )
    return report


def _check_numbers(folder: Path, files: RunFiles, predictions: Predictions) -> None:
    found = verify_metrics(
        predictions,
        files.metrics,
        split_sha256=sha256_file(folder / "splits.csv"),
        baselines=read_baselines(Run(folder), predictions),
    )
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise IntegrityError(
            f"{folder}/metrics.json does not follow from predictions.csv: {found[0]}{more}. "
            "`scanwise evaluate RUN` writes it anew."
        )


def read_runs(paths: Sequence[Path]) -> tuple[RunEntry, ...]:
    """All runs at and below `paths`, with names that tell them apart.

    Raises:
        RunError, IntegrityError: As `runs_among` and `read_entry`.
    """
    folders = runs_among(paths)
    names = unique_names(folder.resolve().name for folder in folders)
    return tuple(
        read_entry(folder, name, folder / "bundle")
        for folder, name in zip(folders, names, strict=True)
    )


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, with -2, -3 … behind those that were there before (case does not count)."""
    taken: set[str] = set()
    found = []
    for name in names:
        new, number = name, 2
        while new.lower() in taken:
            new, number = f"{name}-{number}", number + 1
        taken.add(new.lower())
        found.append(new)
    return found


def group_runs(runs: Sequence[RunEntry]) -> tuple[DataSet, ...]:
    """Runs by data set, in each by test images, in each by method; by name, whatever the order."""
    by_data: dict[str, list[RunEntry]] = {}
    for run in sorted(runs, key=lambda run: (_slug(run.data_name), run.data_key, run.name)):
        by_data.setdefault(run.data_key, []).append(run)
    slugs = [_slug(members[0].data_name) for members in by_data.values()]
    return tuple(
        DataSet(folder, slugs.count(slug) > 1, tuple(members), tuple(_test_sets(members)))
        for folder, slug, members in zip(unique_names(slugs), slugs, by_data.values(), strict=True)
    )


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-.").lower() or "data"


def _test_sets(runs: Sequence[RunEntry]) -> Iterator[TestSet]:
    by_test: dict[str, list[RunEntry]] = {}
    for run in runs:
        if run.test is not None:
            by_test.setdefault(run.test_key(), []).append(run)
    for key, members in by_test.items():
        yield TestSet(tuple(members), group_methods(members), len(members[0].test_rows()), key)


def group_methods(runs: Sequence[RunEntry]) -> tuple[Method, ...]:
    """Runs with equal settings put together; of equal seeds too only the first counts."""
    found: list[tuple[dict[str, Any], dict[int | None, RunEntry]]] = []
    for run in runs:
        settings = run.settings()
        seeds = next((seeds for known, seeds in found if known == settings), None)
        if seeds is None:
            seeds = {}
            found.append((settings, seeds))
        seeds.setdefault(run.seed, run)
    names = _method_names([settings for settings, _ in found])
    return tuple(
        Method(name, tuple(seeds.values())) for name, (_, seeds) in zip(names, found, strict=True)
    )


def _method_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The model; where several methods share it, with the settings in which they differ."""
    names = []
    for own in settings:
        alike = [other for other in settings if other["model"] == own["model"]]
        keys = sorted({key for other in alike for key in _differing(own, other)})
        said = ", ".join(f"{key} {_short(key, own.get(key))}" for key in keys)
        names.append(f"{own['model']}, {said}" if said else str(own["model"]))
    return names


def _short(key: str, value: object) -> str:
    return str(value)[:8] if key == "split" else str(value)


def differing_settings(first: Method, second: Method) -> tuple[str, ...]:
    """Names of the settings in which two methods differ."""
    return tuple(_differing(first.runs[0].settings(), second.runs[0].settings()))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    keys = [*first, *(key for key in second if key not in first)]
    return [key for key in keys if first.get(key) != second.get(key)]


def confounding_words(differs: Sequence[str]) -> str:
    """Several causes can't be told apart: 'confounded: differs in A, B'; else 'differs in A'."""
    if not differs:
        return "differs in nothing that is recorded"
    words = f"differs in {', '.join(differs)}"
    return f"confounded: {words}" if len(differs) > 1 else words
