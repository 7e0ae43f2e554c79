"""Each rule fires on its picture, with its numbers, and is silent on a good run."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scanwise.report.diagnosis import diagnose
from scanwise.report.history import History
from scanwise.report.verdict import Facts, verdict


def history(
    loss: Sequence[float],
    val_loss: Sequence[float],
    accuracy: Sequence[float] | None = None,
    val_accuracy: Sequence[float] | None = None,
    lr: Sequence[float] | None = None,
) -> History:
    n = len(loss)
    rows = [
        {
            "epoch": i + 1,
            "loss": loss[i],
            "val_loss": val_loss[i],
            "accuracy": (accuracy or np.linspace(0.5, 0.8, n))[i],
            "val_accuracy": (val_accuracy or np.linspace(0.5, 0.78, n))[i],
            "lr": (lr or [1e-3] * n)[i],
        }
        for i in range(n)
    ]
    return History.from_rows(rows)


def codes(facts: Facts) -> list[str]:
    return [item.finding.code for item in diagnose(facts)]


def falling(n: int, start: float = 1.0, end: float = 0.2) -> list[float]:
    return list(np.geomspace(start, end, n))


def test_the_guides_example_is_a_good_run(sim: SimpleNamespace) -> None:
    found = diagnose(Facts(history=History.from_rows(sim.guide_history())))
    assert [item.finding.code for item in found] == ["T000"]
    assert found[0].finding.severity == "info"
    assert "good run" in found[0].finding.evidence
    for number in ("2.159", "0.208", "1.582", "0.109", "0.465", "0.954"):
        assert number in found[0].finding.evidence


def test_overfitting_carries_its_numbers_and_epoch() -> None:
    val = [1.0, 0.7, 0.5, 0.45, 0.42, 0.40, 0.43, 0.45, 0.47, 0.472]
    train = [1.0, 0.8, 0.7, 0.6, 0.55, 0.50, 0.42, 0.36, 0.30, 0.29]
    found = diagnose(Facts(history=history(train, val)))
    assert found[0].finding.code == "T001"
    assert found[0].epoch == 6
    # mean of the last two: 0.471 / 0.40 - 1 = 18 %; 1 - 0.295 / 0.5 = 41 %
    assert "val_loss rose 18 % since epoch 6" in found[0].finding.evidence
    assert "train loss fell 41 %" in found[0].finding.evidence


def test_a_small_rise_of_validation_loss_is_no_overfitting() -> None:
    val = [1.0, 0.6, 0.5, 0.45, 0.42, 0.40, 0.405, 0.41, 0.42, 0.42]
    assert "T001" not in codes(Facts(history=history(falling(10), val)))


def test_the_diagnosis_says_when_the_kept_weights_are_from_before_the_overfit() -> None:
    val = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7]
    facts = Facts(history=history(falling(6), val), best_epoch=3)
    assert "the weights kept are from before" in diagnose(facts)[0].finding.evidence
    late = Facts(history=history(falling(6), val), best_epoch=6)
    assert "weights kept" not in diagnose(late)[0].finding.evidence


def test_what_overfits_is_not_called_underfitting_too() -> None:
    curves = history([1.40, 1.26, 1.25], [2.38, 3.69, 2.52], [0.26, 0.5, 0.5], [0.29, 0.29, 0.29])
    found = codes(Facts(history=curves, counts={"train": [13, 8, 25, 38]}))
    assert "T001" in found
    assert "T002" not in found


def test_underfitting_compares_with_the_largest_class() -> None:
    facts = Facts(
        history=history(
            falling(10, 1.10, 1.02), falling(10, 1.1, 1.03), [0.5] * 9 + [0.52], [0.5] * 10
        ),
        counts={"train": [50, 30, 20]},
    )
    found = diagnose(facts)
    assert found[0].finding.code == "T002"
    assert "fell only 7 %" in found[0].finding.evidence
    assert "largest class at 0.500" in found[0].finding.evidence


def test_plateau_only_at_a_constant_rate() -> None:
    loss = falling(8, 1.0, 0.5) + [0.5] * 10
    val = falling(8, 1.0, 0.6) + [0.6] * 10
    assert "T003" in codes(Facts(history=history(loss, val)))
    lowered = [1e-3] * 9 + [1e-5] * 9
    assert "T003" not in codes(Facts(history=history(loss, val, lr=lowered)))


def test_divergence_by_nan_and_by_rise() -> None:
    for loss in ([1.0, 0.8, float("nan"), float("nan")], [1.0, 0.5, 0.9, 1.4]):
        found = diagnose(Facts(history=history(loss, [1.0, 0.9, 1.5, 2.0])))
        assert found[0].finding.code == "T004"
        assert found[0].finding.severity == "error"
    assert (
        "from epoch 3 on"
        in diagnose(Facts(history=history([1.0, 0.8, float("inf")], [1.0, 0.9, 1.0])))[
            0
        ].finding.evidence
    )


def test_noisy_counts_the_jumps() -> None:
    val = [1.0, 0.8] + [0.5, 0.8] * 8
    found = diagnose(Facts(history=history(falling(18), val)))
    noisy = next(item.finding for item in found if item.finding.code == "T005")
    assert "times in" in noisy.evidence
    assert "0.500 to 0.800" in noisy.evidence


def test_still_improving_unless_the_schedule_has_ended_or_little_is_left() -> None:
    train, val = falling(12), falling(12, 1.0, 0.4)
    assert "T006" in codes(Facts(history=history(train, val)))
    ended = list(np.linspace(1e-3, 1e-6, 12))
    assert "T006" not in codes(Facts(history=history(train, val, lr=ended)))
    high = list(np.linspace(0.5, 0.97, 12))
    assert "T006" not in codes(Facts(history=history(train, val, val_accuracy=high)))


@pytest.mark.parametrize("n", [1, 2])
def test_under_three_epochs_nothing_is_judged(n: int) -> None:
    found = diagnose(Facts(history=history([1.0, 5.0][:n], [1.0, 9.0][:n])))
    assert [item.finding.code for item in found] == ["T007"]
    assert "too short to judge" in found[0].finding.evidence


def test_validation_unlike_train_from_the_start() -> None:
    accuracy, val_accuracy = [0.7, 0.8, 0.85, 0.88, 0.9, 0.9], [0.5, 0.55, 0.6, 0.62, 0.63, 0.63]
    train, val = falling(6), falling(6, 1.0, 0.7)
    assert "T011" in codes(Facts(history=history(train, val, accuracy, val_accuracy)))


def split_of(matrix: list[list[int]], **more: Any) -> dict[str, Any]:
    n = int(np.sum(matrix))
    return {"n": n, "confusion_matrix": matrix, "skill": "ok"} | more


def test_ignored_class_is_named_with_its_images() -> None:
    facts = Facts(
        splits={"test": split_of([[50, 0, 2], [9, 0, 3], [1, 0, 40]])}, class_names=("a", "b", "c")
    )
    found = diagnose(facts)
    assert [item.finding.code for item in found] == ["T008"]
    assert "'b' (12 images)" in found[0].finding.evidence


def test_collapse_and_no_skill_are_errors_with_their_reason() -> None:
    for skill, code in (("collapsed", "T009"), ("no_skill", "T010")):
        facts = Facts(
            splits={"test": split_of([[90, 0], [10, 0]], skill=skill, skill_reason="the reason")},
            class_names=("a", "b"),
        )
        found = [item.finding for item in diagnose(facts)]
        assert found[0].code == code
        assert found[0].severity == "error"
        assert "the reason" in found[0].evidence
        assert verdict(facts).level == skill


def test_shift_of_class_shares_is_measured() -> None:
    facts = Facts(counts={"val": [470, 530], "test": [250, 750]}, class_names=("normal", "ill"))
    found = diagnose(facts)
    assert found[0].finding.code == "T012"
    assert "22.0 %" in found[0].finding.evidence  # |0.47 - 0.25|
    small = Facts(counts={"val": [5, 5], "test": [7, 3]}, class_names=("normal", "ill"))
    assert diagnose(small) == ()


def test_test_below_validation_needs_intervals_apart() -> None:
    def score(value: float, low: float, high: float) -> dict[str, Any]:
        return {"value": value, "ci95": [low, high]}

    val = split_of([[50, 0], [0, 50]], accuracy=score(0.97, 0.95, 0.98))
    apart = split_of([[50, 0], [0, 50]], accuracy=score(0.87, 0.84, 0.90))
    meet = split_of([[50, 0], [0, 50]], accuracy=score(0.94, 0.90, 0.96))
    assert "T013" in codes(Facts(splits={"val": val, "test": apart}, class_names=("a", "b")))
    assert "T013" not in codes(Facts(splits={"val": val, "test": meet}, class_names=("a", "b")))


def test_few_images_or_groups_are_too_few() -> None:
    facts = Facts(splits={"test": split_of([[10, 2], [2, 9]])}, class_names=("a", "b"))
    assert codes(facts) == ["T014"]
    assert verdict(facts).level == "too_few"
    grouped = split_of([[100, 2], [2, 90]], too_few_to_conclude=True, num_groups=7)
    found = diagnose(Facts(splits={"test": grouped}, class_names=("a", "b")))
    assert "7 groups" in found[0].finding.evidence


def test_nothing_to_judge_is_nothing_said() -> None:
    assert diagnose(Facts()) == ()
    assert verdict(Facts()).level == "unmeasured"


def test_verdict_on_validation_only_says_so() -> None:
    result = split_of([[50, 5], [5, 50]], accuracy={"value": 0.9, "ci95": [0.84, 0.94]})
    said = verdict(Facts(splits={"val": result}, class_names=("a", "b")))
    assert said.level == "val_only"
    assert "validation only" in said.headline
    assert "not opened" in said.sentence


def test_a_simple_model_that_is_the_majority_is_not_beaten_in_the_same_breath() -> None:
    """Not above the constant answer by its interval: then nothing beats that answer, paired."""
    result = split_of([[50, 5], [5, 50]], accuracy={"value": 0.9, "ci95": [0.84, 0.94]})
    result["accuracy_above_trivial"] = False
    result["trivial"] = {"majority": {"class": "a", "accuracy": 0.85}}
    entry = {"n": 110, "accuracy": {"value": 0.85, "ci95": [0.8, 0.9]}, "network_is": "better",
             "gain": {"value": 0.05, "ci95": [0.01, 0.09]}}  # fmt: skip
    baselines = {"histogram": {"title": "histogram", "splits": {"test": entry}}}
    facts = Facts(splits={"test": result}, class_names=("a", "b"), baselines=baselines)
    said = verdict(facts)
    assert "not in plain accuracy" in said.headline
    assert "beats" not in said.sentence
    entry["accuracy"] = {"value": 0.86, "ci95": [0.8, 0.9]}
    assert "beats histogram" in verdict(facts).sentence


def test_broken_numbers_do_not_break_the_rules() -> None:
    nothing = [float("nan")] * 12
    found = diagnose(Facts(history=history(nothing, nothing, nothing, nothing, nothing)))
    assert found[0].finding.code == "T004"
