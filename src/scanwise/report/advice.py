"""At most five next steps, each with its evidence and the command that tries it.

An option is recommended only where a finding or a number asks for it, and never when it is already
on. What an option will bring is not known before it is tried, so expectations are words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scanwise.core.commands import command_line, completed, said_settings
from scanwise.core.types import Finding, Interval
from scanwise.report.verdict import Facts, as_interval

MOST = 5
SMALLER = {
    "resnet50": "resnet18",
    "densenet121": "resnet18",
    "efficientnet_b0": "small_resnet:32",
    "resnet18": "small_resnet:32",
    "advanced_cnn": "small_resnet:32",
    "simple_cnn": "small_resnet:16",
    "small_resnet": "small_resnet:16",
}
LARGER = {
    "small_resnet": "resnet18",
    "simple_cnn": "advanced_cnn",
    "mlp": "small_resnet:32",
    "advanced_cnn": "resnet18",
    "resnet18": "resnet50",
}
NORMALISED = {*SMALLER, "small_resnet"}  # our convolutional networks; the MLP has no normalisation
STRENGTHS = ("none", "gentle", "medium", "strong")


@dataclass(frozen=True)
class Recommendation:
    """One next step. `urgency` orders them, 0 first."""

    code: str
    title: str
    evidence: str
    command: str
    expectation: str
    urgency: int = 5
    already_on: bool = (
        False  # always False: what is on is not recommended, and says so in options()
    )
    changes: Mapping[str, Any] = field(default_factory=dict)  # settings that a try changes
    metric: str = "accuracy"  # that a try is judged by

    @property
    def can_be_tried(self) -> bool:
        """False where its user must act first: get images, mend a split, look at pictures."""
        return bool(self.changes)

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "evidence": self.evidence,
            "command": self.command,
            "expectation": self.expectation,
            "already_on": self.already_on,
            "can_be_tried": self.can_be_tried,
        }


@dataclass(frozen=True)
class Option:
    """A remedy of the usual list: is it on in this run, and how."""

    name: str
    on: bool
    how: str

    def to_json(self) -> dict[str, Any]:
        return {"option": self.name, "on": self.on, "how": self.how}


@dataclass(frozen=True, eq=False)
class Situation:
    """What advice may look at: the findings, the resolved settings, sizes."""

    facts: Facts
    findings: tuple[Finding, ...]
    config: Mapping[str, Any]
    plan: Sequence[Mapping[str, Any]] = ()
    parameters: int | None = None
    n_train: int | None = None
    benchmark: bool = False  # an official split, which its user can't change
    own_split: bool = False  # the split came with the user's data
    leaked_test_images: int = 0

    def has(self, *codes: str) -> Finding | None:
        """The first finding with one of these codes."""
        return next((finding for finding in self.findings if finding.code in codes), None)

    def setting(self, name: str) -> Any:
        """A resolved setting; the plan's value where the config leaves it open."""
        value = self.config.get(name)
        if value is not None:
            return value
        return next((row.get("value") for row in self.plan if row.get("setting") == name), None)

    @property
    def model(self) -> str:
        """The network's name without its sizes: 'small_resnet'."""
        return str(self.setting("model") or "").split(":")[0]

    def trial(
        self,
        code: str,
        title: str,
        evidence: str,
        changes: Mapping[str, Any],
        expectation: str,
        *,
        urgency: int,
        metric: str = "",
    ) -> Recommendation:
        """A recommendation that `scanwise recommend --try` can try by changing settings."""
        usual = "auroc_macro" if self.facts.task == "multilabel" else "accuracy"
        return Recommendation(
            code,
            title,
            evidence,
            self.command(**changes),
            expectation,
            urgency,
            changes=changes,
            metric=metric or usual,
        )

    def command(self, **changes: Any) -> str:
        """`scanwise train DATA` with what the user had said, changed as given."""
        settings = said_settings(self.config, self.plan)
        return command_line("train", str(self.config.get("data") or "DATA"), settings | changes)


Rule = Callable[[Situation], "Recommendation | None"]


def recommend(situation: Situation) -> tuple[Recommendation, ...]:
    """The most urgent recommendations, at most five; none without evidence.

    Options that change the same setting are not recommended together: the more urgent one stays.
    """
    found = [result for rule in RULES if (result := rule(situation)) is not None]
    found.sort(key=lambda item: item.urgency)
    kept: dict[str, Recommendation] = {}
    for item in found:
        kept.setdefault(item.command, item)
    return tuple(kept.values())[:MOST]


def options(situation: Situation) -> tuple[Option, ...]:
    """The usual remedies, whether each is on in this run, and how."""
    scheduler = str(situation.setting("scheduler") or "none")
    augment = str(situation.setting("augment") or "none")
    dropout = float(situation.setting("dropout") or 0)
    weights = str(situation.setting("class_weights") or "none")
    sampler = str(situation.setting("sampler") or "shuffle")
    balanced = (
        weights != "none"
        or sampler != "shuffle"
        or situation.setting("balance") not in (None, "none")
    )
    patience = int(situation.setting("patience") or 0)
    return (
        _batch_norm_option(situation.model),
        Option("learning-rate schedule", scheduler != "none", f"--scheduler {scheduler}"),
        Option("augmentation", augment != "none", f"--augment {augment}"),
        Option("dropout", dropout > 0, f"--dropout {dropout:g}"),
        Option("class balancing", balanced, f"--class-weights {weights} --sampler {sampler}"),
        Option("early stopping", patience > 0, f"--patience {patience}"),
        Option(
            "weight averaging",
            bool(situation.setting("ema")),
            "--ema" if situation.setting("ema") else "--no-ema",
        ),
    )


def _batch_norm_option(model: str) -> Option:
    if model in NORMALISED:
        return Option("batch normalisation", True, f"in {model}")
    how = "mlp has none" if model == "mlp" else f"not known of {model or 'this network'}"
    return Option("batch normalisation", False, how)


# The rules, in no order: urgency decides.


def repair_leak(situation: Situation) -> Recommendation | None:
    """A001: images shared by train and test make every score too good.

    Fires on leaked test images, unless the split is an official one. Evidence: their number.
    """
    shared = situation.leaked_test_images
    if not shared or situation.benchmark:
        return None
    return Recommendation(
        "A001",
        "Remove the leak between train and test",
        f"{shared:,} test images also lie in train, exactly or nearly.",
        _fresh_split(situation),
        "Scores that hold for new images; usually lower ones.",
        urgency=0,
    )


def _fresh_split(situation: Situation) -> str:
    """The command without a reused split: near-duplicates are then kept together.

    A split that came with the data can't be left out by a flag; the page of the check shows which
    images to remove.
    """
    if situation.own_split:
        return completed("check --output check", situation.config, situation.plan)
    settings = said_settings(situation.config, situation.plan)
    kept = {name: value for name, value in settings.items() if name not in _OF_THE_LEAK}
    return command_line("train", str(situation.config.get("data") or "DATA"), kept)


_OF_THE_LEAK = {"splits", "accept_leak"}


def lower_rate(situation: Situation) -> Recommendation | None:
    """A002: divergence, noise or a rate found too high asks for a lower learning rate.

    Fires on T015, T004 or T005. A tenth where it was too high or diverged, a third where
    validation loss was only noisy.
    """
    finding, rate = situation.has("T015", "T004", "T005"), situation.setting("lr")
    if finding is None or not rate:
        return None
    lower = float(f"{float(rate) / (3 if finding.code == 'T005' else 10):.1g}")
    return situation.trial(
        "A002",
        "Lower the learning rate",
        finding.evidence,
        {"lr": lower},
        f"Smoother curves at {lower:g} instead of {float(rate):g}; perhaps more epochs are needed.",
        urgency=3 if finding.code == "T005" else 1,
    )


def balance_classes(situation: Situation) -> Recommendation | None:
    """A003: a class is never predicted, or the model collapsed; nothing balances the classes.

    Fires on T008 or T009 where neither class weights, sampler nor SMOTE are on. Tried on balanced
    accuracy.
    """
    finding = situation.has("T008", "T009")
    balancing = next(option for option in options(situation) if option.name == "class balancing")
    if finding is None or balancing.on or situation.facts.task == "multilabel":
        return None
    return situation.trial(
        "A003",
        "Weight the classes",
        finding.evidence,
        {"class_weights": "balanced"},
        "Rare classes get predicted; overall accuracy may fall while balanced accuracy rises.",
        urgency=1,
        metric="balanced_accuracy",
    )


def stronger_augmentation(situation: Situation) -> Recommendation | None:
    """A004: overfitting, and augmentation is off or weak.

    Fires on T001; the guide's "more data augmentation".
    """
    finding = situation.has("T001")
    now = str(situation.setting("augment") or "none")
    if finding is None or now not in STRENGTHS[:-1]:
        return None
    wanted = STRENGTHS[max(STRENGTHS.index(now) + 1, 2)]
    return situation.trial(
        "A004",
        f"Augment more: {wanted} instead of {now}",
        finding.evidence,
        {"augment": wanted},
        "Train and validation loss come closer; training takes more epochs to converge.",
        urgency=2,
    )


def schedule_rate(situation: Situation) -> Recommendation | None:
    """A005: a plateau or noise at a constant learning rate.

    Fires on T003, T005 or T001 where no schedule is on.
    """
    finding = situation.has("T003", "T005", "T001")
    if finding is None or situation.setting("scheduler") not in (None, "none"):
        return None
    return situation.trial(
        "A005",
        "Lower the learning rate by a schedule",
        finding.evidence,
        {"scheduler": "cosine"},
        "The last epochs settle in a lower validation loss than a constant rate reaches.",
        urgency=3,
    )


def smaller_model(situation: Situation) -> Recommendation | None:
    """A006: overfitting with many more parameters than training images.

    Fires on T001 with 50 parameters or more a training image.
    """
    finding, smaller = situation.has("T001"), _smaller(str(situation.setting("model") or ""))
    if finding is None or smaller is None or not situation.parameters or not situation.n_train:
        return None
    ratio = situation.parameters / situation.n_train
    if ratio < 50:
        return None
    return situation.trial(
        "A006",
        f"Try a smaller network: {smaller}",
        f"{situation.parameters:,} parameters for {situation.n_train:,} training images "
        f"({ratio:,.0f} each), and it overfits ({finding.code}).",
        {"model": smaller},
        "Less to memorise with, and faster epochs.",
        urgency=4,
    )


def _smaller(model: str) -> str | None:
    name, _, sizes = model.partition(":")
    if name == "mlp" and sizes:
        return "mlp:" + ",".join(str(max(8, int(width) // 2)) for width in sizes.split(","))
    if name == "small_resnet":
        width = int(sizes) if sizes.isdigit() else 32
        return f"small_resnet:{width // 2}" if width > 8 else None
    return SMALLER.get(name)


def more_dropout(situation: Situation) -> Recommendation | None:
    """A007: overfitting without dropout.

    Fires on T001 where dropout is 0; the guide's "more dropout".
    """
    finding = situation.has("T001")
    if finding is None or float(situation.setting("dropout") or 0) > 0:
        return None
    return situation.trial(
        "A007",
        "Switch dropout on",
        finding.evidence,
        {"dropout": 0.3},
        "The gap between train and validation narrows.",
        urgency=4,
    )


def more_epochs(situation: Situation) -> Recommendation | None:
    """A008: still improving when it stopped, or too short to judge.

    Fires on T006 or T007; the guide's "more epochs". Twice as many, and at least ten.
    """
    finding, epochs = situation.has("T006", "T007"), situation.setting("epochs")
    if finding is None or not epochs:
        return None
    wanted = max(2 * int(epochs), 10)
    return situation.trial(
        "A008",
        f"Train for {wanted} epochs",
        finding.evidence,
        {"epochs": wanted},
        "Validation loss falls further until it turns; the best epoch is kept.",
        urgency=2,
    )


def larger_model(situation: Situation) -> Recommendation | None:
    """A009: underfitting with a small network.

    Fires on T002; the guide's "larger model".
    """
    finding, larger = situation.has("T002"), LARGER.get(situation.model)
    if finding is None or larger is None:
        return None
    return situation.trial(
        "A009",
        f"Try a larger network: {larger}",
        finding.evidence,
        {"model": larger},
        "Train loss falls further; watch that validation follows.",
        urgency=3,
    )


def batch_normalisation(situation: Situation) -> Recommendation | None:
    """A010: unstable or poor training in a network without batch normalisation.

    Fires on T005, T004, T010 or T001 of an MLP.
    """
    finding = situation.has("T005", "T004", "T010", "T001")
    if finding is None or situation.model != "mlp":
        return None
    return situation.trial(
        "A010",
        "Use a convolutional network with batch normalisation",
        f"{situation.model} has no batch normalisation; {finding.evidence}",
        {"model": "small_resnet:32"},
        "Steadier training; neighbouring pixels are seen as such.",
        urgency=3,
    )


def stop_early(situation: Situation) -> Recommendation | None:
    """A011: epochs after the best one were wasted.

    Fires on T001 where five epochs or more came after the best one and patience is 0; the
    guide's "fewer epochs".
    """
    finding, history = situation.has("T001"), situation.facts.history
    if finding is None or history is None or int(situation.setting("patience") or 0) > 0:
        return None
    if situation.setting("scheduler") == "onecycle":
        return None  # must run to its end
    best = history.best_row()
    wasted = int(history.epoch[-1] - history.epoch[best]) if best is not None else 0
    if wasted < 5:
        return None
    return situation.trial(
        "A011",
        "Stop early",
        f"{wasted} epochs ran after the one with the lowest val_loss.",
        {"patience": 5},
        "The same weights in less time: the best epoch is kept either way.",
        urgency=5,
    )


def more_images(situation: Situation) -> Recommendation | None:
    """A012: the class with the lowest sensitivity is also one that few images decide.

    Fires under 100 images of it, with a sensitivity under 0.8 and an interval wider than 0.1.
    Never tried by itself.
    """
    facts = situation.facts
    if facts.history is None and not facts.splits:
        return None
    weak = _weakest_class(facts)
    if weak is None:
        return None
    name, sensitivity, n, split = weak
    trained = _train_count(facts, name)
    beside = f"; train has {trained:,}" if trained is not None else ""
    return Recommendation(
        "A012",
        f"Get more images of '{name}'",
        f"'{name}' has the lowest sensitivity, {sensitivity} on {n} {split} images{beside}.",
        situation.command(),
        "A narrower interval, and most likely fewer missed; run it again on the larger data.",
        urgency=4,
    )


def raise_rate(situation: Situation) -> Recommendation | None:
    """A013: the learning rate was too low (the guide: "higher learning rate").

    Fires on T016. Ten times the rate.
    """
    finding, rate = situation.has("T016"), situation.setting("lr")
    if finding is None or not rate:
        return None
    higher = min(1.0, float(f"{10 * float(rate):.1g}"))
    return situation.trial(
        "A013",
        "Raise the learning rate",
        finding.evidence,
        {"lr": higher},
        f"Train loss falls faster at {higher:g} than at {float(rate):g}; lower it again if "
        "validation loss becomes noisy.",
        urgency=1,
    )


def alike_images(situation: Situation) -> Recommendation | None:
    """A014: splits look different, or a mark gives the class away.

    The guide's "consistent imaging" and "representative samples". Never tried by itself: its user
    must look at the images.
    """
    finding = situation.has("T019", "T022", "T011", "T013")
    if finding is None:
        return None
    return Recommendation(
        "A014",
        "Make the images of all splits alike",
        finding.evidence,
        completed("check --output check", situation.config, situation.plan),
        "Its page shows images and intensities of each class; with like magnification, lighting "
        "and processing, validation and test say what new images will.",
        urgency=1,
    )


def look_at_labels(situation: Situation) -> Recommendation | None:
    """A015: training labels look wrong. Never tried by itself: its user must look at them.

    Fires on T018.
    """
    finding = situation.has("T018")
    if finding is None:
        return None
    return Recommendation(
        "A015",
        "Look through the training labels",
        finding.evidence,
        completed("check --output check", situation.config, situation.plan),
        "Its page lists pictures that occur with two labels; fewer wrong labels, fewer mistakes "
        "learned.",
        urgency=1,
    )


def cross_validate(situation: Situation) -> Recommendation | None:
    """A016: too few test images to conclude (the guide: "proper validation").

    Never tried by itself: every fold's test images would be looked at.
    """
    finding = situation.has("T014")
    if finding is None or situation.setting("splits") or situation.benchmark or situation.own_split:
        return None
    settings = said_settings(situation.config, situation.plan) | {"cv": 5}
    return Recommendation(
        "A016",
        "Test every image once, by cross-validation",
        finding.evidence,
        command_line("train", str(situation.config.get("data") or "DATA"), settings),
        "The same images carry a narrower interval: each is tested once, by a network that has not "
        "seen it.",
        urgency=3,
    )


def more_of_all(situation: Situation) -> Recommendation | None:
    """A017: too few training images for any judgement. Never tried by itself.

    Fires on T021.
    """
    finding = situation.has("T021")
    if finding is None:
        return None
    return Recommendation(
        "A017",
        "Get more training images",
        finding.evidence,
        situation.command(),
        "Curves that can be judged; 30 to 50 images of each class are the guide's least.",
        urgency=1,
    )


def _weakest_class(facts: Facts) -> tuple[str, Interval, int, str] | None:
    """The lowest sensitivity, where under 100 images make its interval wider than 0.1."""
    for split in ("test", "val"):
        rows = per_class_rows(facts.splits.get(split) or {}, facts.class_names)
        rows = [row for row in rows if row[1].value is not None]
        if not rows:
            continue
        name, value, n = min(rows, key=lambda row: row[1].value or 0.0)
        wide = value.low is not None and value.high is not None and value.high - value.low > 0.1
        if len(rows) > 1 and wide and n < 100 and (value.value or 0.0) < 0.8:
            return name, value, n, {"test": "test", "val": "validation"}[split]
        return None
    return None


def _train_count(facts: Facts, name: str) -> int | None:
    counts = facts.counts.get("train") or []
    index = facts.class_names.index(name) if name in facts.class_names else -1
    return int(counts[index]) if 0 <= index < len(counts) else None


def per_class_rows(
    result: Mapping[str, Any], class_names: Sequence[str]
) -> list[tuple[str, Interval, int]]:
    """Name, sensitivity and number of images of each class in a split of metrics.json."""
    return [
        (name, as_interval(entry.get("sensitivity")), int(entry.get("n") or 0))
        for name, entry in per_class_entries(result, class_names)
    ]


def per_class_entries(
    result: Mapping[str, Any], class_names: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and numbers of each class in a split of metrics.json, in class order."""
    entries = result.get("per_class") or []
    if len(entries) != len(class_names):
        return []
    return list(zip(class_names, entries, strict=True))


RULES: tuple[Rule, ...] = (
    repair_leak,
    lower_rate,
    balance_classes,
    stronger_augmentation,
    schedule_rate,
    smaller_model,
    more_dropout,
    more_epochs,
    larger_model,
    batch_normalisation,
    stop_early,
    more_images,
    raise_rate,
    alike_images,
    look_at_labels,
    cross_validate,
    more_of_all,
)
