"""The settings of the next training, in plain words, as far as the check lets them be known."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scanwise.core.commands import command_line
from scanwise.core.config import TrainConfig, make_config
from scanwise.pipeline.plan import DataFacts, Decision, make_plan
from scanwise.prepare.augment import flip_is_safe

PRESETS = {
    "": "Recommended: a small network trained from scratch",
    "quick": "Quick: a smaller network, in seconds, to see whether it can work at all",
    "auto": "By number of images: the training guide's table (cautious, slower to learn)",
    "reference": "MedMNIST protocol: ResNet-18, 100 epochs (slow on a CPU)",
}
# The plan's settings in words that need no course in machine learning.
WORDS = {
    "model": "Network (model)",
    "epochs": "Passes over the training images (epochs)",
    "batch_size": "Images shown at once (batch size)",
    "lr": "Size of each learning step (learning rate)",
    "dropout": "Share of the network switched off at random (dropout)",
    "augment": "Random changes to the images while learning (augmentation)",
    "class_weights": "Extra weight for rare classes (class weights)",
    "optimizer": "Way of learning (optimiser)",
    "weight_decay": "Pull towards simple answers (weight decay)",
    "scheduler": "How the steps get smaller (schedule)",
    "warmup": "Gentle start (warm-up epochs)",
    "label_smoothing": "Guard against over-confidence (label smoothing)",
    "ema": "Average over the last steps (EMA)",
    "patience": "Stop early after so many epochs without progress (patience; 0: never)",
    "monitor": "What picks the best epoch (monitor)",
    "head": "Last layer (head)",
    "loss": "What is made small (loss)",
    "contrast": "Contrast of the images (contrast)",
    "balance": "Made-up images of rare classes (SMOTE)",
    "sampler": "Order of the images (sampler)",
    "seed": "Number that starts everything random (seed)",
}
FIRST = ("model", "epochs", "batch_size", "lr", "augment", "class_weights", "seed")


@dataclass(frozen=True)
class Proposal:
    """A setting that the check asks the user about."""

    setting: str
    value: Any
    question: str
    evidence: str


def train_words(data: str, settings: Mapping[str, Any], output: str) -> list[str]:
    """Arguments of `scanwise` for a training.

    >>> train_words("my cells", {"epochs": 3}, "runs/cells-001")
    ['train', 'my cells', '--epochs', '3', '--output', 'runs/cells-001']
    """
    return shlex.split(command_line("train", data, {**settings, "output": output}))[1:]


def check_words(data: str, output: str) -> list[str]:
    return shlex.split(command_line("check", data, {"output": output}))[1:]


def clean_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user filled in, checked; empty fields are left to the plan.

    Raises:
        ConfigError: As the command line says it.
    """
    said = {n: v for n, v in given.items() if v is not None and v is not False and v != ""}
    make_config(said)
    return said


def facts_of(dataset_json: Mapping[str, Any]) -> DataFacts | None:
    """What the plan looks at, from a check's dataset.json; None where it has no counts."""
    counts = dataset_json.get("counts") or {}
    train = counts.get("train")
    if not train:
        return None
    sizes = (dataset_json.get("split") or {}).get("n") or {}
    return DataFacts(
        n_images=int(dataset_json.get("n") or 0),
        n_train=int(sizes.get("train") or sum(train)),
        smallest_class=int(min(train)),
        from_files=dataset_json.get("kind") in ("folder", "split-folder", "manifest"),
        mirrors=flip_is_safe(dataset_json.get("class_names") or ()),
    )


def plan_rows(
    settings: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> tuple[str, tuple[Decision, ...]]:
    """Which preset would fire and why, and every setting with its reason.

    Raises:
        ConfigError: Settings that contradict each other.
    """
    facts = facts_of(dataset_json)
    if facts is None:
        return "", ()
    _, decisions, line = make_plan(make_config(clean_settings(settings)), facts)
    return line, decisions


def proposals(dataset_json: Mapping[str, Any]) -> tuple[Proposal, ...]:
    """What the check found that a setting answers: groups in names, bad files, leaks."""
    checks = dataset_json.get("checks") or {}
    found: list[Proposal] = []
    for finding in checks.get("findings") or ():
        code, evidence = finding.get("code"), str(finding.get("evidence") or "")
        if code == "D013" and (regex := _flag(finding.get("command"), "--group-regex")):
            question = f"Keep images of one patient, slide or smear together (groups by {regex})"
            found.append(Proposal("group_regex", regex, question, evidence))
        elif code == "D001":
            question = "Leave out the files that can't be read"
            found.append(Proposal("skip_unreadable", True, question, evidence))
        elif code in ("D004", "D007") and finding.get("severity") == "error":
            question = "Train although training and test share images (scores will be too good)"
            found.append(Proposal("accept_leak", True, question, evidence))
    once = {proposal.setting: proposal for proposal in reversed(found)}
    return tuple(reversed(once.values()))


def _flag(command: object, flag: str) -> str:
    words = shlex.split(str(command or ""))
    return words[words.index(flag) + 1] if flag in words[:-1] else ""


def limits(name: str) -> str:
    """The description that the command line gives of a setting."""
    return TrainConfig.model_fields[name].description or ""
