"""Recommendations need evidence, name a command, and never name what is on."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from scanwise.core.config import TrainConfig, make_config
from scanwise.core.types import Finding
from scanwise.report.advice import Recommendation, Situation, options, recommend
from scanwise.report.verdict import Facts

SETTINGS: dict[str, Any] = {
    "data": "my cells",
    "model": "resnet18",
    "epochs": 20,
    "lr": 1e-3,
    "scheduler": "cosine",
    "augment": "strong",
    "dropout": 0.2,
    "patience": 5,
    "class_weights": "none",
}


def situation(*findings: str, facts: Facts | None = None, **settings: Any) -> Situation:
    config = TrainConfig(**(SETTINGS | settings)).model_dump()
    return Situation(
        facts=facts or Facts(),
        findings=tuple(Finding(code, "warning", f"{code}: evidence.") for code in findings),
        config=config,
        plan=[{"setting": name, "source": "preset default"} for name in SETTINGS if name != "data"],
        parameters=11_000_000,
        n_train=1000,
    )


def by_code(found: tuple[Recommendation, ...]) -> dict[str, Recommendation]:
    return {item.code: item for item in found}


def test_no_evidence_no_recommendation() -> None:
    assert recommend(situation(augment="none", scheduler="none", dropout=0.0, patience=0)) == ()


@pytest.mark.parametrize(
    ("finding", "off", "on", "code"),
    [
        ("T001", {"augment": "none"}, {"augment": "strong"}, "A004"),
        ("T003", {"scheduler": "none"}, {"scheduler": "cosine"}, "A005"),
        ("T001", {"dropout": 0.0}, {"dropout": 0.1}, "A007"),
        ("T008", {"class_weights": "none"}, {"class_weights": "balanced"}, "A003"),
        ("T008", {"class_weights": "none"}, {"sampler": "balanced"}, "A003"),
        ("T005", {"model": "mlp:64"}, {"model": "resnet18"}, "A010"),
    ],
)
def test_what_is_on_is_never_recommended(
    finding: str, off: dict[str, Any], on: dict[str, Any], code: str
) -> None:
    assert code in by_code(recommend(situation(finding, **off)))
    assert code not in by_code(recommend(situation(finding, **on)))


def test_the_seeds_four_are_candidates_and_shown_as_on() -> None:
    names = {option.name: option for option in options(situation())}
    assert names["batch normalisation"].on
    assert names["learning-rate schedule"].on
    assert names["augmentation"].on
    assert not {option.name: option for option in options(situation(model="mlp:64"))}[
        "batch normalisation"
    ].on
    smaller = by_code(recommend(situation("T001")))["A006"]
    assert "small_resnet:32" in smaller.command


def test_commands_run_as_they_stand() -> None:
    found = recommend(situation("T001", "T005", "T006", "T008", augment="none", patience=0))
    assert found
    for item in found:
        program, verb, data, *flags = shlex.split(item.command)
        assert (program, verb, data) == ("scanwise", "train", "my cells")
        settings = {
            flag[2:].replace("-", "_"): value
            for flag, value in zip(flags[::2], flags[1::2], strict=True)
        }
        make_config(settings)  # every flag is a setting, every value allowed


def test_commands_keep_what_the_user_said_and_nothing_that_the_plan_chose() -> None:
    case = situation("T001", augment="none", seed=7, contrast="clahe")
    plan = [*case.plan, {"setting": "contrast", "source": "you"}]
    case = Situation(**{**case.__dict__, "plan": plan})
    command = by_code(recommend(case))["A004"].command
    assert "--contrast clahe" in command
    assert "--seed 7" in command
    assert "--epochs" not in command
    assert "--lr" not in command
    assert command.endswith("--augment medium")


def test_at_most_five_most_urgent_first() -> None:
    everything = situation(
        "T001", "T002", "T003", "T004", "T005", "T006", "T008",
        augment="none", scheduler="none", dropout=0.0, patience=0, model="mlp:256",
    )  # fmt: skip
    found = recommend(everything)
    assert len(found) == 5
    assert [item.urgency for item in found] == sorted(item.urgency for item in found)
    assert found[0].code in ("A002", "A003")
    assert all(item.evidence and item.expectation and item.command for item in found)


def test_a_leak_comes_first_and_drops_the_leaking_split() -> None:
    case = situation("T001", augment="none", splits="old.csv", accept_leak=True)
    case = Situation(**{**case.__dict__, "leaked_test_images": 12})
    first = recommend(case)[0]
    assert first.code == "A001"
    assert "12" in first.evidence
    assert "--splits" not in first.command
    assert "--accept-leak" not in first.command
    # A split that came with the data can't be left out by a flag: see what to remove.
    delivered = recommend(Situation(**{**case.__dict__, "own_split": True}))[0]
    assert delivered.command.startswith("scanwise check 'my cells' --splits old.csv --accept-leak")
    official = Situation(**{**case.__dict__, "benchmark": True})
    assert "A001" not in by_code(recommend(official))


def test_more_images_names_the_weakest_class_with_its_interval() -> None:
    def entry(name: str, value: float, low: float, high: float, n: int) -> dict[str, Any]:
        return {"name": name, "n": n, "sensitivity": {"value": value, "ci95": [low, high]}}

    split = {"per_class": [entry("a", 0.95, 0.9, 0.98, 200), entry("b", 0.6, 0.4, 0.77, 25)]}
    facts = Facts(splits={"test": split}, class_names=("a", "b"), counts={"train": [900, 70]})
    found = by_code(recommend(situation(facts=facts)))["A012"]
    assert "0.600 [0.400, 0.770] on 25 test images; train has 70" in found.evidence
