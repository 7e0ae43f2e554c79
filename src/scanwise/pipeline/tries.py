"""`scanwise recommend RUN --try N`: try the first N recommendations, and say which ones helped.

Each try is a run of its own beside the base (RUN-tries/CODE-…), of the same data, split and seed,
with the settings that the recommendation changes. Test is not opened: base and try are compared on
the same validation images, by the paired test of `scanwise compare`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanwise.core.commands import command_line, said_settings
from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import DataError, RunError
from scanwise.core.files import sha256_bytes, sha256_file
from scanwise.core.types import Interval
from scanwise.metrics.compare import compare
from scanwise.metrics.differences import ALPHA
from scanwise.metrics.multiplicity import holm
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.runs import Run, is_run_folder
from scanwise.pipeline.train import train
from scanwise.report.advice import Recommendation
from scanwise.report.build import build_report, judge
from scanwise.report.run_files import read_run

FILE = "recommendations.json"
SCHEMA = 1
OUTCOMES = {"better": "hit", "worse": "miss"}  # all else is "not distinguishable"


@dataclass(frozen=True)
class Advice:
    """What is recommended for a run, and what was found when it was tried."""

    run: Path
    recommendations: tuple[Recommendation, ...]
    tries: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "recommendations": [item.to_json() for item in self.recommendations],
            "tries": list(self.tries),
        }

    def text(self) -> str:
        lines = [f"{self.run}: {_count(len(self.recommendations))}"]
        for rank, item in enumerate(self.recommendations, start=1):
            lines += [
                f"{rank}. {item.title} ({item.code})",
                f"   why: {item.evidence}",
                f"   expect: {item.expectation}",
                f"   {item.command}" + ("" if item.can_be_tried else "   (for you: never tried)"),
            ]
        if self.tries:
            lines += ["", "tried, on validation:"]
            lines += [f"   {try_words(one)}" for one in self.tries]
        elif any(item.can_be_tried for item in self.recommendations):
            lines += ["", f"`scanwise recommend {self.run} --try 1` tries the first on validation."]
        return "\n".join(lines)


def _count(number: int) -> str:
    if not number:
        return "no recommendation: no finding asks for a change."
    return f"{number} recommendation{'s' if number > 1 else ''}, the most urgent first"


def try_words(one: Mapping[str, Any]) -> str:
    """A try in one line: outcome, difference, interval, n, p."""
    gap = Interval.from_json(one["difference"])
    p = one["corrected_p"]
    return (
        f"{one['outcome']}: {one['title']} ({one['code']}): {one['metric']} "
        f"{one['base_value']:.3f} to {one['try_value']:.3f}, difference {gap.signed()} on "
        f"{one['n']:,} validation images"
        + ("" if p is None else f", p={p:.3f}")
        + (f" after Holm for {one['num_comparisons']} tries" if one["num_comparisons"] > 1 else "")
        + f"; {one['run']}"
    )


def advise(path: Path) -> Advice:
    """The ranked recommendations of a finished run, with what was tried before.

    Raises:
        RunError: If it is no run, is not finished, or one of its files can't be read.
    """
    run = Run.open(path)
    if not (run.path / "metrics.json").is_file():
        raise RunError(
            f"{path} is not finished; `scanwise train --resume {path}` finishes it, and then "
            "there is something to judge."
        )
    found = judge(read_run(run.path), draw=False).recommendations
    return Advice(run.path, found, tuple(read_tries(run)))


def try_out(path: Path, number: int) -> Advice:
    """Try the first `number` recommendations that change settings, and record what came of them.

    The base run is only read, but for `recommendations.json` and its report. A try that was
    finished before is not trained again; one that was killed is.

    Raises:
        RunError: If the run can't be advised, holds no validation images, or nothing can be tried.
        ScanwiseError: If a try can't be trained; those before it are recorded.
    """
    advice = advise(path)
    run = Run.open(path)
    chosen = [item for item in advice.recommendations if item.can_be_tried][:number]
    if not chosen:
        raise RunError(
            f"{path} has no recommendation that can be tried"
            + (": all of them are for you to do." if advice.recommendations else ".")
        )
    base = _validation(run)
    for item in chosen:
        print(f"try: {item.title} ({item.code}): {item.command}", file=sys.stderr)  # noqa: T201
        tried = _train(run, item)
        _record(run, _judged(run, base, item, tried))
    if (run.path / "report.json").is_file():
        build_report(run.path)
    return advise(path)


def read_tries(run: Run) -> list[dict[str, Any]]:
    """The tries of recommendations.json; [] where nothing was tried."""
    if not (run.path / FILE).is_file():
        return []
    tries: list[dict[str, Any]] = run.read_json(FILE, "")["tries"]
    return tries


def try_config(run: Run, item: Recommendation) -> TrainConfig:
    """Settings of a try: what the user said of the base, the change, the base's split; no test."""
    settings = said_settings(run.config.model_dump(), run.plan) | dict(item.changes)
    same = {
        "data": run.config.data,
        "splits": str(run.path / "splits.csv"),
        "seed": run.config.seed,
        "no_test": True,
        "report": False,
        "accept_leak": True,  # the base was trained on these very splits
        "device": run.config.device,
        "threads": run.config.threads,
        "output": str(_folder(run, item)),
        "force": True,  # only what a killed try has left
    }
    return make_config(settings | same)


def _folder(run: Run, item: Recommendation) -> Path:
    """Beside the base, so that it stays as it was; the same change has the same folder."""
    slug = sha256_bytes(command_line("train", "", item.changes).encode())[:6]
    return run.path.with_name(f"{run.path.resolve().name}-tries") / f"{item.code}-{slug}"


def _train(run: Run, item: Recommendation) -> Run:
    """The finished try: the one that is there, or a new one."""
    config = try_config(run, item)
    folder = Path(str(config.output))
    if is_run_folder(folder) and Run(folder).finished:
        done = Run(folder)
        if done.metrics.get("split_sha256") == run.metrics.get("split_sha256"):
            return done
    return train(config)


def _validation(run: Run) -> Predictions:
    """What a run said of the validation images.

    Raises:
        RunError: If there are none.
    """
    try:
        found = read_predictions(run.path / "predictions.csv", run.path / "splits.csv")
    except (OSError, DataError) as error:
        raise RunError(f"can't compare {run.path}: {error}") from error
    if "val" not in found.split:
        raise RunError(f"{run.path} has no validation images to compare on.")
    return found.of_split("val")


def _judged(run: Run, base: Predictions, item: Recommendation, tried: Run) -> dict[str, Any]:
    """One entry of recommendations.json, judged as if it were the only one."""
    found = compare([base], [_validation(tried)], item.metric)
    return {
        "code": item.code,
        "title": item.title,
        "command": item.command,
        "changes": dict(item.changes),
        "expectation": item.expectation,
        "run": tried.path.relative_to(run.path.parent).as_posix(),
        "outcome": OUTCOMES.get(found.verdict, "not distinguishable"),
        "metric": found.metric,
        "base_value": found.base_values[0],
        "try_value": found.variant_values[0],
        "difference": found.difference.to_json(),
        "p_value": found.p_value,
        "corrected_p": found.p_value,
        "num_comparisons": 1,
        "higher_is_better": found.higher_is_better,
        "method": found.method,
        "scope": found.scope,
        "split": "val",
        "n": found.n,
        "num_groups": found.num_groups,
    }


def _record(run: Run, entry: Mapping[str, Any]) -> None:
    """Add a try (or replace the same one), and judge all that were tried together."""
    others = [one for one in read_tries(run) if one["run"] != entry["run"]]
    run.write(
        FILE,
        {
            "schema": SCHEMA,
            "split": "val",
            "split_sha256": sha256_file(run.path / "splits.csv"),
            "command": f"scanwise recommend {run.path.resolve().name} --try",
            "tries": judged_together([*others, dict(entry)]),
        },
    )


def judged_together(tries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Outcomes with Holm's correction for all tries of one base that were tested."""
    tested = [place for place, one in enumerate(tries) if one["p_value"] is not None]
    corrected = dict(
        zip(tested, holm([tries[place]["p_value"] for place in tested]).tolist(), strict=True)
    )
    judged = []
    for place, one in enumerate(tries):
        p, gap = corrected.get(place), one["difference"]["value"]
        outcome = "not distinguishable"
        if p is not None and gap is not None and p < ALPHA and gap != 0:
            outcome = "hit" if (gap > 0) == one["higher_is_better"] else "miss"
        numbers = {"corrected_p": p, "num_comparisons": max(1, len(tested)), "outcome": outcome}
        judged.append(dict(one) | numbers)
    return judged


def recomputed_tries(run: Run) -> list[dict[str, Any]]:
    """The tries as they follow from the predictions of base and tries, for `verify-report`.

    A try whose folder is gone can't be recomputed and stays as it was stated.
    """
    base, found = None, []
    for one in read_tries(run):
        folder = run.path.parent / str(one["run"])
        if not (folder / "predictions.csv").is_file():
            found.append(dict(one))
            continue
        base = base or _validation(run)
        item = Recommendation(
            one["code"],
            one["title"],
            "",
            one["command"],
            one["expectation"],
            changes=one["changes"],
            metric=one["metric"],
        )
        found.append(_judged(run, base, item, Run(folder)))
    return judged_together(found)
