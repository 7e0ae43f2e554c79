"""Each cause fires on its numbers and names them; it stands before what it explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from scanwise.metrics.intervals import wilson_interval
from scanwise.report.causes import _difference
from scanwise.report.diagnosis import diagnose
from scanwise.report.history import History
from scanwise.report.rules import Diagnosis
from scanwise.report.verdict import Facts

HEALTHY: dict[str, Any] = {
    "weights_moved": 0.3,
    "steps": 200,
    "batch_mix": {"ratio": 1.1, "freedom": 20},
    "pixels": {
        "n_train": 400,
        "n_val": 100,
        "brightness": {"train": 0.0, "val": 0.05, "auroc": 0.53},
        "contrast": {"train": 0.9, "val": 0.9, "auroc": 0.49},
    },
    "answers": {
        "n_train": 400,
        "train_right": 340,
        "train_right_batch_statistics": 344,
        "variance_off": 1.04,
        "n_val": 100,
        "val_right": 84,
    },
    "border": {
        "place": "top left corner", "class": "ill", "brighter": True, "side_px": 3, "auroc": 0.6,
        "n": 200, "n_class": 90,
    },
}  # fmt: skip


def facts(part: str = "", loss: tuple[float, ...] = (1.0, 0.7, 0.6, 0.55), **changed: Any) -> Facts:
    """A healthy run, with some numbers of one part of its probes changed."""
    probes = dict(HEALTHY)
    if part:
        probes[part] = probes[part] | changed
    else:
        probes |= changed
    rows = [
        {"epoch": i + 1, "loss": value, "val_loss": value + 0.05, "accuracy": 0.6 + 0.06 * i,
         "val_accuracy": 0.6 + 0.06 * i, "lr": 4e-3}
        for i, value in enumerate(loss)
    ]  # fmt: skip
    return Facts(
        history=History.from_rows(rows),
        counts={"train": [220, 180]},
        class_names=("well", "ill"),
        best_epoch=len(loss),
        probes=probes,
    )


def only(found: tuple[Diagnosis, ...], code: str) -> str:
    """The evidence of the one warning, which must be of this code."""
    warned = [item.finding for item in found if item.finding.severity != "info"]
    assert [finding.code for finding in warned] == [code]
    return warned[0].evidence


def test_a_healthy_run_stays_a_good_run() -> None:
    assert [item.finding.code for item in diagnose(facts())][:1] == ["T000"]


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        (facts(weights_moved=1.7), "T015", ("4.0e-03", "1.7 of their length", "200 steps")),
        (facts(loss=(1.0, 1.8, 0.6, 0.5)), "T015", ("1.800, in epoch 2", "after 1.000")),
        (facts(weights_moved=0.014), "T016", ("0.014 of their length", "fell 43 %", "0.850 [")),
        (facts("batch_mix", ratio=24.0), "T017", ("24.0 times", "480 with 20 degrees")),
        (facts("answers", train_right=280), "T018", ("0.700 [", "0.840 [", "+0.140 [+0.")),
        (facts("pixels", brightness={"train": 0.0, "val": -2.1, "auroc": 0.02}), "T019",
         ("brightness is 0.00", "-2.10", "0.980")),
        (facts("answers", variance_off=1.5, train_right_batch_statistics=380), "T020",
         ("factor of 1.50", "0.850 [", "0.950 [")),
        (facts("answers", last={"train_right": 200, "train_right_batch_statistics": 380,
                                "variance_off": 1.9}), "T020", ("last epoch's network", "1.90")),
        (facts("border", auroc=0.999), "T022", ("top left corner", "3×3 px", "'ill'", "0.999")),
    ],
)  # fmt: skip
def test_a_cause_is_named_with_its_numbers(case: Facts, code: str, words: tuple[str, ...]) -> None:
    evidence = only(diagnose(case), code)
    for word in words:
        assert word in evidence


@pytest.mark.parametrize(
    "case",
    [
        facts(weights_moved=0.8),  # 0.057 a square root of steps
        facts(weights_moved=0.0),  # nothing moved: not slow, but dead
        facts("batch_mix", ratio=4.0, freedom=1),  # one step in twenty is so by chance
        facts("answers", train_right=316),  # 5 points
        facts("answers", variance_off=1.5),  # costs nothing
        facts("answers", train_right_batch_statistics=380),  # but the statistics fit
        facts("pixels", n_val=10, brightness={"train": 0.0, "val": -2.1, "auroc": 0.0}),
        facts("border", auroc=0.94),
        Facts(history=facts().history),  # no probes
    ],
)
def test_silent_below_the_thresholds(case: Facts) -> None:
    assert not [item for item in diagnose(case) if item.finding.severity != "info"]


def test_the_mark_of_a_rate_too_high_is_its_worst_epoch() -> None:
    found = diagnose(facts(loss=(1.0, 0.9, 1.9, 0.5)))
    assert (found[0].epoch, found[0].words) == (3, "rate too high")


def test_a_cause_stands_before_the_collapse_that_it_explains_and_is_as_grave() -> None:
    collapsed = {"n": 100, "skill": "collapsed", "confusion_matrix": [[55, 0], [45, 0]]}
    case = Facts(**{**facts(weights_moved=0.014).__dict__, "splits": {"test": collapsed}})
    found = [item.finding for item in diagnose(case)]
    assert [(one.code, one.severity) for one in found[:2]] == [("T016", "error"), ("T009", "error")]
    mark = Facts(**{**facts("border", auroc=1.0).__dict__, "splits": {"test": collapsed}})
    assert [item.finding.code for item in diagnose(mark)][:2] == ["T009", "T022"]  # explains none


def test_under_twenty_images_a_class_nothing_is_judged() -> None:
    val = [1.0, 0.5, 0.9, 1.4, 2.0]  # would be overfitting
    rows = [
        {"epoch": i + 1, "loss": 1 / (i + 1), "val_loss": value, "lr": 1e-3}
        for i, value in enumerate(val)
    ]
    few = Facts(history=History.from_rows(rows), counts={"train": [19, 20]}, probes=HEALTHY)
    assert "39 training images of 2 classes, 19.5 each" in only(diagnose(few), "T021")
    enough = Facts(history=History.from_rows(rows), counts={"train": [20, 20]}, probes=HEALTHY)
    assert "overfitting" in only(diagnose(enough), "T001")


def test_under_three_epochs_only_facts_of_the_data_are_stated() -> None:
    short = facts("batch_mix", ratio=30.0, loss=(1.0, 5.0))
    found = [item.finding.code for item in diagnose(short)]
    assert found == ["T017", "T007"]


def test_the_difference_of_shares_is_newcombes() -> None:
    low, high = confint_proportions_2indep(84, 100, 280, 400, method="newcomb")
    ours = _difference(wilson_interval(84, 100), wilson_interval(280, 400))
    assert ours.value == pytest.approx(0.14)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-9)


def test_the_guides_three_signs_are_named_as_it_names_them() -> None:
    """Seed S2, "Signs of Problems": overfitting, underfitting, class imbalance issues."""

    def history(loss: list[float], val: list[float], accuracy: list[float]) -> History:
        rows = [
            {"epoch": i + 1, "loss": loss[i], "val_loss": val[i], "accuracy": accuracy[i],
             "val_accuracy": accuracy[0], "lr": 1e-4}
            for i in range(len(loss))
        ]  # fmt: skip
        return History.from_rows(rows)

    falling = list(np.geomspace(1.0, 0.1, 8))
    over = history(falling, [0.9, 0.7, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0], [0.7] * 8)
    assert "overfitting" in diagnose(Facts(history=over))[0].finding.evidence
    slow = list(np.linspace(1.10, 1.05, 8))
    under = Facts(history=history(slow, slow, [0.4] * 8), counts={"train": [40, 30, 30]})
    found = diagnose(under)[0].finding
    assert found.evidence.startswith("underfitting")
    for solution in ("epochs", "larger network", "higher rate"):
        assert solution in found.advice
    majority = {"n": 100, "skill": "collapsed", "confusion_matrix": [[90, 0], [10, 0]]}
    ignored = {"n": 200, "skill": "ok", "confusion_matrix": [[90, 9, 0], [8, 81, 0], [6, 6, 0]]}
    for result, names in ((majority, ("a", "b")), (ignored, ("a", "b", "c"))):
        found = diagnose(Facts(splits={"test": result}, class_names=names))[0].finding
        assert found.evidence.startswith("class imbalance issues")
        assert "class" in found.advice
