"""What went well or wrong in a training: rules with stable codes, each with its numbers.

Rules compare each series with itself (validation loss now against its own lowest), never the level
of train loss with that of validation loss: smoothing, dropout and augmentation make training loss
another quantity. Epoch numbers, not row numbers, measure time, so that a log of every fifth epoch
reads the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.report.causes import CAUSES, DATA_CAUSES, check_few_images
from scanwise.report.history import History
from scanwise.report.rules import (
    MIN_EPOCHS,
    Diagnosis,
    Rule,
    change,
    diagnosis,
    epochs_words,
    history_of,
    percent,
    tail_mean,
)
from scanwise.report.verdict import (
    SPLIT_WORDS,
    TOO_FEW,
    Facts,
    as_interval,
    is_too_few,
    judged_split,
)

OVERFIT_RISE = 0.10  # validation loss this far above its lowest ...
OVERFIT_FALL = 0.10  # ... while train loss fell by this since then
JUMP = 0.20  # a validation loss 20 % above the epoch before counts as a jump
SHIFT = 0.10  # classes whose shares differ by this in all between two splits
LITTLE_LEFT = 0.05  # under 5 % error left, "still improving" is no longer worth a finding


IMBALANCE = "class imbalance issues: "  # the guide's name for it
SYMPTOMS = ("T004", "T009", "T010")  # errors that say how a training ended, not why
EXPLAINING = ("T015", "T016", "T017", "T018", "T019", "T020", "T021")  # causes of these


def diagnose(facts: Facts) -> tuple[Diagnosis, ...]:
    """Run every rule; errors first, and causes before what they explain.

    A cause of a collapse is as grave as the collapse. A run without errors or warnings is called a
    good run (T000). Without history and metrics there is nothing to judge and the result is empty.
    """
    found = [result for rule in _rules(facts) if (result := rule(facts)) is not None]
    if any(item.finding.code in SYMPTOMS for item in found):
        found = [_graver(item) for item in found]
    found.sort(key=lambda item: ("error", "warning", "info").index(item.finding.severity))
    troubled = any(item.finding.severity != "info" for item in found)
    if not troubled and facts.history is not None and len(facts.history) >= MIN_EPOCHS:
        return (check_good_run(facts), *found)
    return tuple(found)


def _graver(item: Diagnosis) -> Diagnosis:
    if item.finding.code not in EXPLAINING:
        return item
    return replace(item, finding=replace(item.finding, severity="error"))


def _rules(facts: Facts) -> tuple[Rule, ...]:
    """What can be judged: no curve under three epochs, and none of too few images."""
    if facts.history is None:
        return (check_few_images, *DATA_CAUSES, *METRIC_RULES)
    if len(facts.history) < MIN_EPOCHS:
        return (check_few_images, check_too_short, *DATA_CAUSES, *METRIC_RULES)
    if check_few_images(facts) is not None:
        return (check_few_images, check_divergence, *DATA_CAUSES, *METRIC_RULES)
    return (*CAUSES, *HISTORY_RULES, *METRIC_RULES)


# Rules on history.csv. Each is called with a history of three rows or more (but check_too_short).


def check_good_run(facts: Facts) -> Diagnosis:
    """T000: losses fell, accuracies rose, no rule objects: the guide's picture of a good run.

    Fires where no rule has an error or a warning. Evidence: first and last train loss,
    validation loss and validation accuracy.
    """
    history = history_of(facts)
    parts = [
        f"{moved_words('train loss', history.loss)}, {moved_words('val_loss', history.val_loss)}",
        f"{moved_words('val_accuracy', history.val_accuracy)}",
    ]
    evidence = f"good run: {'; '.join(parts)} over epochs {epochs_words(history)}."
    return diagnosis("T000", "info", evidence)


def check_overfitting(facts: Facts) -> Diagnosis | None:
    """T001: validation loss rises from its lowest point while train loss goes on falling.

    Fires where the last two validation losses lie 10 % or more above the lowest while train loss
    fell by 10 % or more since then. Evidence: both changes, and the epoch of the lowest.
    """
    history = history_of(facts)
    best = history.best_row()
    if best is None or best >= len(history) - 2:
        return None
    lowest, last = history.val_loss[best], tail_mean(history.val_loss)
    rise, fall = change(lowest, last), -change(history.loss[best], tail_mean(history.loss))
    if not (rise >= OVERFIT_RISE and fall >= OVERFIT_FALL):
        return None
    epoch = int(history.epoch[best])
    kept = "; the weights kept are from before that" if _kept_early(facts, epoch) else ""
    evidence = (
        f"overfitting: val_loss rose {percent(rise)} since epoch {epoch} ({lowest:.3f} to "
        f"{last:.3f}) while train loss fell {percent(fall)} ({history.loss[best]:.3f} to "
        f"{tail_mean(history.loss):.3f}){kept}."
    )
    advice = "Stronger augmentation, more dropout, a smaller network or fewer epochs."
    return diagnosis("T001", "warning", evidence, advice, epoch=epoch, words="overfits from here")


def check_underfitting(facts: Facts) -> Diagnosis | None:
    """T002: train loss hardly fell, and both accuracies stay near that of the largest class.

    Fires where train loss fell by under 30 %, train and validation accuracy both are under a
    quarter of the way from the largest class's share to 1, validation's balanced accuracy is under
    a quarter of the way from chance to 1, and nothing overfits. (Augmented images may be hard to a
    network that does well on plain ones; class weights trade accuracy for balanced accuracy.)
    Evidence: the fall, the accuracies, that share.
    """
    history = history_of(facts)
    majority = _majority_share(facts, "train")
    first, last = history.loss[0], tail_mean(history.loss)
    fall = -change(first, last)
    accuracy, val_accuracy = tail_mean(history.accuracy), tail_mean(history.val_accuracy)
    slow = -0.05 < fall < (0.15 if majority is None else 0.30)  # a rise is another finding
    low = majority is None or not (
        _has_learned(accuracy, majority)
        or _has_learned(val_accuracy, majority)
        or _has_learned(tail_mean(history.val_balanced_acc), 1 / max(len(facts.class_names), 2))
    )
    # What overfits has learned something; both at once would advise a larger and a smaller network.
    if not (slow and low) or check_overfitting(facts) is not None:
        return None
    beside = "" if majority is None else f", with the largest class at {majority:.3f}"
    evidence = (
        f"underfitting: train loss fell only {percent(max(fall, 0.0))} ({first:.3f} to {last:.3f}) "
        f"over epochs {epochs_words(history)}; train accuracy is {accuracy:.3f}, validation "
        f"accuracy {val_accuracy:.3f}{beside} (means of the last epochs)."
    )
    return diagnosis("T002", "warning", evidence, "More epochs, a larger network or a higher rate.")


def _has_learned(score: float, trivial: float) -> bool:
    """A quarter of the way from what a trivial answer scores to 1; False for NaN."""
    return score >= trivial + 0.25 * (1 - trivial)


def check_plateau(facts: Facts) -> Diagnosis | None:
    """T003: neither loss moved by 2 % over the last third, at a constant learning rate.

    Fires from seven epochs on, over the last third of them but at least five. Evidence: both
    losses, by how much they moved, since which epoch, and the rate.
    """
    history = history_of(facts)
    window = max(5, len(history) // 3)
    if len(history) <= window + 1:
        return None
    rates = history.lr[-window:]
    if not np.isfinite(rates).all() or rates.min() < 0.9 * np.nanmax(history.lr):
        return None  # the schedule has already lowered it
    train, val = history.loss[-window:], history.val_loss[-window:]
    moved = max(
        abs(change(part[: window // 2].mean(), part[window // 2 :].mean())) for part in (train, val)
    )
    if not moved < 0.02:
        return None
    epoch = int(history.epoch[-window])
    evidence = (
        f"plateau: since epoch {epoch} train loss ({train[-1]:.3f}) and val_loss ({val[-1]:.3f}) "
        f"moved by {percent(moved, 1)} at most, at a constant learning rate of {rates[-1]:.1e}."
    )
    return diagnosis(
        "T003", "info", evidence, "Lower the rate by a schedule.", epoch=epoch, words="plateau"
    )


def check_divergence(facts: Facts) -> Diagnosis | None:
    """T004: a loss became infinite, or train loss ended far above its lowest.

    Fires where train loss is no finite number, or ends at 1.5 times its lowest or more and above
    where it began. Evidence: the epoch, and the losses.
    """
    history = history_of(facts)
    broken = ~np.isfinite(history.loss)
    if broken.any():
        epoch = int(history.epoch[int(broken.argmax())])
        evidence = f"divergence: train loss is not a finite number from epoch {epoch} on."
    else:
        lowest, last = float(history.loss.min()), float(history.loss[-1])
        if last < 1.5 * lowest or last < 1.05 * history.loss[0]:
            return None
        epoch = int(history.epoch[int(history.loss.argmin())])
        evidence = (
            f"divergence: train loss rose from {lowest:.3f} in epoch {epoch} to {last:.3f} in the "
            f"last, above the {history.loss[0]:.3f} it began with."
        )
    return diagnosis(
        "T004", "error", evidence, "Lower the learning rate.", epoch=epoch, words="diverges"
    )


def check_noisy(facts: Facts) -> Diagnosis | None:
    """T005: validation loss jumps up and down, and train loss rises too often to be a descent.

    Fires from eight epochs on where a quarter of the steps from epoch to epoch, and three at
    least, raise validation loss by over 20 %; the first fifth of the epochs does not count.
    Evidence: how many jumps, the largest one and its epoch, how often train loss rose.
    """
    history = history_of(facts)
    if len(history) < 8:
        return None
    skip = max(2, len(history) // 5)  # the first epochs of a run are rough by nature
    val = history.val_loss[skip:]
    ratio = val[1:] / val[:-1]
    jumps = np.flatnonzero(ratio > 1 + JUMP)
    rises = float(np.mean(np.diff(history.loss[skip:]) > 0))
    if len(jumps) < max(3, 0.25 * len(ratio)):
        return None
    worst = int(jumps[np.argmax(ratio[jumps])])
    epoch = int(history.epoch[skip + worst + 1])
    evidence = (
        f"noisy: val_loss jumped by more than {percent(JUMP)} from one epoch to the next "
        f"{len(jumps)} times in {len(ratio)} (worst: {val[worst]:.3f} to {val[worst + 1]:.3f} in "
        f"epoch {epoch}); train loss rose in {percent(rises)} of the epochs."
    )
    advice = "Lower the learning rate, enlarge the batch, or average the weights."
    return diagnosis("T005", "warning", evidence, advice, epoch=epoch, words="largest jump")


def check_still_improving(facts: Facts) -> Diagnosis | None:
    """T006: the last epochs are the best ones and validation loss falls at over 1 % an epoch.

    Not where the schedule has ended or under 5 % error is left. Evidence: the fall over the last
    fifth of the epochs.
    """
    history = history_of(facts)
    best = history.best_row()
    window = max(3, len(history) // 5)
    if best is None or best < len(history) - 1 or len(history) < window + 1:
        return None
    if _finished_schedule(history) or 1 - history.val_accuracy[-1] < LITTLE_LEFT:
        return None
    start, end = history.val_loss[-window], history.val_loss[-1]
    epochs = int(history.epoch[-1] - history.epoch[-window])
    if not (start > end and -change(start, end) / max(epochs, 1) > 0.01):
        return None
    fall = percent(-change(start, end))
    evidence = (
        f"still improving: val_loss fell {fall} over the last {epochs} epochs "
        f"({start:.3f} to {end:.3f}) and was lowest in the last one, {int(history.epoch[-1])}."
    )
    return diagnosis("T006", "info", evidence, "Train for more epochs.")


def check_too_short(facts: Facts) -> Diagnosis | None:
    """T007: under three epochs no curve can be judged.

    Evidence: the number of epochs.
    """
    history = history_of(facts)
    count = len(history)
    evidence = (
        f"too short to judge: {count} epoch{'s' if count > 1 else ''} recorded, at least "
        f"{MIN_EPOCHS} are needed."
    )
    return diagnosis("T007", "info", evidence, "Train for more epochs.")


def check_val_unlike_train(facts: Facts) -> Diagnosis | None:
    """T011: validation accuracy lies far below train accuracy from the first half on.

    Fires where the median gap of the first half of the epochs and the gap at the end are both
    over 0.12, and nothing overfits. Evidence: both gaps.
    """
    history = history_of(facts)
    if check_overfitting(facts) is not None or len(history) < 4:
        return None
    half = history.accuracy[: len(history) // 2] - history.val_accuracy[: len(history) // 2]
    gap = float(np.nanmedian(half)) if np.isfinite(half).any() else float("nan")
    last = tail_mean(history.accuracy) - tail_mean(history.val_accuracy)
    if not (gap > 0.12 and last > 0.12):
        return None
    evidence = (
        f"validation unlike train: validation accuracy lay {gap:.3f} below train accuracy already "
        f"in the first half of the epochs (median), and {last:.3f} at the end."
    )
    advice = "Look for differences between the splits: site, stain, scanner, how they were drawn."
    return diagnosis("T011", "warning", evidence, advice)


# Rules on metrics.json and dataset.json.


def check_ignored_class(facts: Facts) -> Diagnosis | None:
    """T008: a class with five or more images is never predicted: class imbalance issues.

    Fires on the confusion matrix of test, or of validation where test was not opened. Evidence: the
    classes with their images; "class imbalance issues" where one has fewer than an equal share.
    """
    name, result = judged_split(facts)
    if result is None or facts.task == "multilabel" or result.get("skill") == "collapsed":
        return None
    matrix = np.asarray(result.get("confusion_matrix") or [], dtype=np.int64)
    if matrix.ndim != 2 or len(matrix) != len(facts.class_names):
        return None
    ignored = np.flatnonzero((matrix.sum(axis=0) == 0) & (matrix.sum(axis=1) >= 5))
    if not len(ignored):
        return None
    what = ", ".join(
        f"'{facts.class_names[i]}' ({int(matrix[i].sum())} images)" for i in ignored[:5]
    )
    rare = (matrix[ignored].sum(axis=1) < matrix.sum() / len(matrix)).any()
    evidence = f"{IMBALANCE if rare else ''}class ignored: {what} never predicted in {name}."
    return diagnosis("T008", "warning", evidence, "Weight the classes, or add images of these.")


def check_collapsed(facts: Facts) -> Diagnosis | None:
    """T009: (nearly) all images get one answer.

    Fires where metrics.json says `collapsed`: 95 % or more of the images get one class. Evidence:
    its reason; "class imbalance issues" where that class is the commonest.
    """
    name, result = judged_split(facts)
    if result is None or result.get("skill") != "collapsed":
        return None
    evidence = (
        f"{IMBALANCE if _says_majority(facts, result) else ''}collapsed on {SPLIT_WORDS[name]}: "
        f"{result.get('skill_reason') or 'one answer for all'}."
    )
    advice = "Do not use this model; change learning rate, class weights or network."
    return diagnosis("T009", "error", evidence, advice)


def _says_majority(facts: Facts, result: Mapping[str, Any]) -> bool:
    """Whether the one answer is a class that has more than an equal share of the images."""
    matrix = np.asarray(result.get("confusion_matrix") or [], dtype=np.int64)
    if matrix.ndim != 2 or len(matrix) != len(facts.class_names):
        return False
    said = int(matrix.sum(axis=0).argmax())
    return bool(matrix[said].sum() > 1.2 * matrix.sum() / len(matrix))


def check_no_skill(facts: Facts) -> Diagnosis | None:
    """T010: the score's interval reaches down to what a trivial answer scores.

    Fires where metrics.json says `no_skill`. Evidence: its reason, with the interval.
    """
    name, result = judged_split(facts)
    if result is None or result.get("skill") != "no_skill":
        return None
    reason = result.get("skill_reason") or "not above the trivial baselines"
    evidence = f"no skill shown on {SPLIT_WORDS[name]}: {reason}."
    return diagnosis("T010", "error", evidence, "Do not use this model as it is.")


def check_split_shift(facts: Facts) -> Diagnosis | None:
    """T012: the classes have other shares in test than in validation (or than in train).

    Fires where the shares differ by 10 % in all, and by two standard errors. Evidence: the
    distance, and the class that moved most.
    """
    if facts.task == "multilabel":
        return None
    for reference in ("val", "train"):
        shift = _share_shift(facts, reference)
        if shift is not None:
            distance, index, here, there = shift
            words = {"val": "validation", "train": "training"}[reference]
            evidence = (
                f"test unlike {words}: class shares differ by {percent(distance, 1)} in all; "
                f"'{facts.class_names[index]}' is {percent(there, 1)} of {words} and "
                f"{percent(here, 1)} of test."
            )
            advice = "Read scores that depend on prevalence (accuracy, ppv) with this in mind."
            return diagnosis("T012", "info", evidence, advice)
    return None


def check_test_below_val(facts: Facts) -> Diagnosis | None:
    """T013: the test score lies below the validation score and their intervals do not meet.

    Fires on balanced accuracy, accuracy or AUROC. Evidence: both scores with their intervals.
    """
    for metric, words in (
        ("balanced_accuracy", "balanced accuracy"),
        ("accuracy", "accuracy"),
        ("auroc_macro", "AUROC"),
    ):
        val = as_interval((facts.splits.get("val") or {}).get(metric))
        test = as_interval((facts.splits.get("test") or {}).get(metric))
        if val.low is None or test.high is None or test.high >= val.low:
            continue
        evidence = (
            f"test below validation: {words} {test} on test, {val} on validation; the intervals do "
            "not meet."
        )
        advice = "The test split is harder or different: expect its score on new images."
        return diagnosis("T013", "warning", evidence, advice)
    return None


def check_too_few(facts: Facts) -> Diagnosis | None:
    """T014: under 30 images (or groups, where there are any) in the judged split.

    Evidence: the number of images and groups.
    """
    name, result = judged_split(facts)
    if result is None or not is_too_few(result):
        return None
    groups = result.get("num_groups")
    units = f"{groups} groups in " if groups else ""
    evidence = (
        f"too few to conclude: {units}{result.get('n')} {SPLIT_WORDS[name]} images; "
        f"at least {TOO_FEW} independent ones are needed."
    )
    return diagnosis(
        "T014", "warning", evidence, "Get more test images before believing any score."
    )


HISTORY_RULES: tuple[Rule, ...] = (
    check_divergence,
    check_overfitting,
    check_underfitting,
    check_noisy,
    check_val_unlike_train,
    check_plateau,
    check_still_improving,
)
METRIC_RULES: tuple[Rule, ...] = (
    check_collapsed,
    check_no_skill,
    check_ignored_class,
    check_test_below_val,
    check_too_few,
    check_split_shift,
)


def _share_shift(facts: Facts, reference: str) -> tuple[float, int, float, float] | None:
    """Total variation distance of class shares if large, with the class that moved most."""
    test, other = (
        np.asarray(facts.counts.get(name) or [], dtype=np.float64) for name in ("test", reference)
    )
    if not len(test) or len(test) != len(other) or not test.sum() or not other.sum():
        return None
    here, there = test / test.sum(), other / other.sum()
    distance = float(np.abs(here - there).sum() / 2)
    # Small splits differ by chance: ask for more than about two standard errors of a share.
    noise = 2 * float(np.sqrt(0.25 / test.sum() + 0.25 / other.sum()))
    if distance < max(SHIFT, noise):
        return None
    index = int(np.abs(here - there).argmax())
    return distance, index, float(here[index]), float(there[index])


def _majority_share(facts: Facts, split: str) -> float | None:
    counts = np.asarray(facts.counts.get(split) or [], dtype=np.float64)
    if facts.task == "multilabel" or not counts.sum():
        return None
    return float(counts.max() / counts.sum())


def _finished_schedule(history: History) -> bool:
    """True if the rate was brought under a tenth: the last epochs are then meant to be best."""
    rates = history.lr[np.isfinite(history.lr)]
    return bool(len(rates) and rates[-1] < 0.1 * rates.max())


def _kept_early(facts: Facts, epoch: int) -> bool:
    return facts.weights_restored and facts.best_epoch is not None and facts.best_epoch <= epoch + 1


def moved_words(name: str, values: NDArray[np.float64]) -> str:
    return f"{name} {values[0]:.3f} to {values[-1]:.3f}"
