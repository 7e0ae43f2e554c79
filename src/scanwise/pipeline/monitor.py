"""`scanwise monitor RUN LOG…`: do the answers of a service still look like those on validation?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import DataError, RunError
from scanwise.core.files import sha256_file
from scanwise.core.types import Interval, Task
from scanwise.deploy.bundle import Bundle, find_bundle
from scanwise.metrics.drift import DriftTest, corrected, score_drift, share_drift
from scanwise.metrics.inputs import Floats, Ints, predict_classes
from scanwise.metrics.predictions import read_predictions
from scanwise.metrics.shares import share_interval
from scanwise.pipeline.runs import Run, command_line
from scanwise.pipeline.served_log import Served, read_log
from scanwise.pipeline.surroundings import read_scores
from scanwise.pipeline.tables import aligned

REFERENCE = "validation"
CAUTION = (
    "The tests take images as independent: several of one patient make p too small. The classes of "
    "new images may be others in truth; only labels tell whether the answers are still right."
)


@dataclass(frozen=True)
class ShareBeside:
    """A share among validation images beside the one among new images."""

    what: str
    reference: Interval
    new: Interval


@dataclass(frozen=True, eq=False)
class Monitored:
    """What was found; n new images from `first` to `last`."""

    run: str
    n_reference: int
    served: Served
    tests: tuple[DriftTest, ...]
    shares: tuple[ShareBeside, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "command": command_line(),
            "run": self.run,
            "reference": {"split": "val", "n": self.n_reference},
            "new": {"n": len(self.served), "first": self._first(), "last": self._last()},
            "left_out": {
                "lines_of_other_models": self.served.other_models,
                "cut_lines": self.served.cut_lines,
            },
            "tests": [{**asdict(test), "verdict": test.verdict} for test in self.tests],
            "shares": [
                {"what": s.what, "reference": s.reference.to_json(), "new": s.new.to_json()}
                for s in self.shares
            ],
            "caution": CAUTION,
        }

    def _first(self) -> str | None:
        return min(self.served.times, default=None)

    def _last(self) -> str | None:
        return max(self.served.times, default=None)

    def text(self) -> str:
        """Tables and a sentence for the terminal."""
        drifted = [test.what for test in self.tests if test.verdict == "drift"]
        tried = [test for test in self.tests if test.p is not None]
        if drifted:
            verdict = f"Drift: {', '.join(drifted)}."
        elif tried:
            verdict = "No drift shown (which does not prove that there is none)."
        else:
            verdict = "Nothing could be tested."
        return "\n".join(
            [
                f"{len(self.served)} new images ({self._first()} to {self._last()}) beside "
                f"{self.n_reference} {REFERENCE} images of {self.run}.",
                *self._left_out(),
                aligned([TEST_HEAD, *(_test_row(test) for test in self.tests)]),
                *dict.fromkeys(
                    f"Not measured: {test.reason}." for test in self.tests if test.reason
                ),
                aligned([SHARE_HEAD, *(_share_row(each) for each in self.shares)]),
                verdict,
                CAUTION,
            ]
        )

    def _left_out(self) -> list[str]:
        others, cut = self.served.other_models, self.served.cut_lines
        lines = [f"Left out: {others} lines of other models or versions."] if others else []
        return [*lines, *([f"Left out: {cut} last lines that were cut off."] if cut else [])]


TEST_HEAD = ("", "test", "n validation", "n new", "statistic", "p", "p corrected (Holm)", "")
SHARE_HEAD = ("share of images [95 %]", "validation", "new")


def _test_row(test: DriftTest) -> tuple[str, ...]:
    numbers = (str(test.n_reference), str(test.n_new))
    if test.p is None or test.p_corrected is None or test.statistic is None:
        return (test.what, test.test, *numbers, "–", "–", "–", test.verdict)
    found = (f"{test.statistic:.3f}", _p(test.p), _p(test.p_corrected), test.verdict)
    return (test.what, test.test, *numbers, *found)


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _share_row(each: ShareBeside) -> tuple[str, str, str]:
    return (each.what, str(each.reference), str(each.new))


def monitor(path: Path, logs: Sequence[Path], *, any_version: bool = False) -> Monitored:
    """Compare the answers in logs of `scanwise serve --log` with the run's validation predictions.

    Args:
        path: The run whose bundle was served.
        logs: Files of answers.
        any_version: Take answers of other versions of the bundle too (same classes).

    Raises:
        RunError: The run has no validation predictions.
        DataError: A log can't be read, or holds no answer of this model.
    """
    run = Run.open(path)
    bundle = Bundle.from_pretrained(run.path)
    task, names = bundle.config.task, bundle.class_names
    sha256 = sha256_file(find_bundle(run.path) / "SHA256SUMS")
    served = read_log(logs, names, sha256, any_version=any_version)
    if not len(served):
        raise DataError(
            f"no line of the logs is an answer of {path} (bundle {sha256[:12]}…); "
            f"{served.other_models} are of other models or versions. --any-version takes those "
            "with the same classes."
        )
    predictions = read_predictions(run.path / "predictions.csv", None, task)
    val = np.array([split == "val" for split in predictions.split])
    if not val.any():
        raise RunError(f"{path} has no validation predictions to compare with.")
    scores = read_scores(run, predictions)
    known = np.full(int(val.sum()), np.nan) if scores is None else scores[val]
    reference = _Sample(predictions.probabilities[val], known, bundle, task)
    new = _Sample(served.probabilities, served.unknown_scores, bundle, task)
    return Monitored(
        str(path),
        int(val.sum()),
        served,
        corrected(_tests(reference, new, names, task)),
        _shares(reference, new, names),
    )


class _Sample:
    """Answers to n images, and what is compared of them."""

    def __init__(self, probabilities: Floats, scores: Floats, bundle: Bundle, task: Task) -> None:
        self.top: Floats = probabilities.max(axis=1)
        self.scores = scores
        known = ~np.isnan(scores)
        self.flagged = np.array([not ok for ok in bundle.in_distribution(scores[known])], np.bool_)
        k = probabilities.shape[1]
        # (n, k), 1 where the class was predicted; one a row unless labels are several.
        found = predict_classes(probabilities, task)
        self.chosen: Ints = found if task == "multilabel" else np.eye(k, dtype=np.int64)[found]

    def flag_counts(self) -> Ints:
        return np.array([self.flagged.sum(), (~self.flagged).sum()], np.int64)


def _tests(reference: _Sample, new: _Sample, names: Sequence[str], task: Task) -> list[DriftTest]:
    return [
        score_drift("highest probability", reference.top, new.top),
        score_drift("unknown-input score", reference.scores, new.scores),
        share_drift("share of unknown inputs", reference.flag_counts(), new.flag_counts()),
        *_class_tests(reference, new, names, task),
    ]


def _class_tests(
    reference: _Sample, new: _Sample, names: Sequence[str], task: Task
) -> list[DriftTest]:
    """One test of all classes; several labels of one image need a test each."""
    before, after = reference.chosen.sum(axis=0), new.chosen.sum(axis=0)
    if task != "multilabel":
        return [share_drift("shares of predicted classes", before, after)]
    sizes = len(reference.chosen), len(new.chosen)
    return [
        share_drift(
            f"share of predicted {name}",
            np.array([before[place], sizes[0] - before[place]]),
            np.array([after[place], sizes[1] - after[place]]),
        )
        for place, name in enumerate(names)
    ]


def _shares(reference: _Sample, new: _Sample, names: Sequence[str]) -> tuple[ShareBeside, ...]:
    pairs = [("unknown inputs", reference.flagged, new.flagged)]
    pairs += [
        (f"predicted {name}", reference.chosen[:, place] > 0, new.chosen[:, place] > 0)
        for place, name in enumerate(names)
    ]
    return tuple(
        ShareBeside(what, share_interval(before), share_interval(after))
        for what, before, after in pairs
    )
