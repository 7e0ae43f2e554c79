"""Rules that name a cause: what was wrong with the data or the training, not only how it ended.

They rest on `probes` of training.json (see pipeline.probes) beside history.csv, and are silent
without them. Thresholds were tuned on one seed of the fault benchmark (benchmarks/faults.py).
"""

from __future__ import annotations

import numpy as np

from scanwise.core.types import Interval
from scanwise.metrics.intervals import wilson_interval
from scanwise.report.rules import (
    Diagnosis,
    Rule,
    change,
    diagnosis,
    epochs_words,
    history_of,
    percent,
    tail_mean,
)
from scanwise.report.verdict import Facts, judged_split

FEW_A_CLASS = 20  # training images a class, on average, below which curves are not judged
MIXED = 3.0  # how unevenly batches may mix the classes, in units of chance
APART = 0.35  # from an AUROC of 0.5, at which two splits have other pixels
MIN_APART = 20  # images a split for that
OFF = 1.2  # factor by which stored variances may miss those seen
LOST = 0.02  # share of right answers that stored BatchNorm statistics must cost
FAST, SLOW = 0.06, 0.003  # weights moved, as a share of their length a square root of steps
STILL = 1e-5  # less than this is no slow movement but none
GUESS = 1.5  # a train loss of so many times the first one's is worse than not training
FITTED = 0.95  # of training images right, a rate was not too low
BELOW = 0.07  # fewer right answers on training than on validation images
PLAIN = 0.95  # AUROC of one place at the rim alone


def check_few_images(facts: Facts) -> Diagnosis | None:
    """T021: too few training images for any judgement of the curves.

    Fires with under 20 training images a class on average; rules that judge curves or name causes
    are then silent. Evidence: the number of training images and classes.
    """
    counts = facts.counts.get("train") or []
    if not counts or facts.task == "multilabel" or not sum(counts):
        return None
    if sum(counts) >= FEW_A_CLASS * len(counts):
        return None
    evidence = (
        f"too few for a verdict: {sum(counts):,} training images of {len(counts)} classes, "
        f"{sum(counts) / len(counts):.1f} each on average; the curves are not judged below "
        f"{FEW_A_CLASS}."
    )
    return diagnosis("T021", "warning", evidence, "Get at least 30 to 50 images of each class.")


def check_order(facts: Facts) -> Diagnosis | None:
    """T017: training batches did not mix the classes: they came in order.

    Fires where chi-squared of the table batch by class in the first epoch is over 3 times its
    degrees of freedom (random order: about 1), and 6 standard deviations above that. Evidence: that
    ratio.
    """
    mix = facts.probes.get("batch_mix") or {}
    ratio, freedom = mix.get("ratio"), mix.get("freedom")
    if not ratio or not freedom or ratio < max(MIXED, 1 + 6 * float(np.sqrt(2 / freedom))):
        return None
    evidence = (
        f"unshuffled: the batches of the first epoch mixed the classes {ratio:.1f} times more "
        f"unevenly than random order does (chi-squared {ratio * freedom:.0f} with {freedom} "
        "degrees of freedom)."
    )
    return diagnosis("T017", "warning", evidence, "Shuffle the training images before each epoch.")


def check_batchnorm(facts: Facts) -> Diagnosis | None:
    """T020: stored BatchNorm statistics do not fit the weights: evaluated is another network.

    Fires where the stored variance of the median channel is off by a factor of 1.2 or more from
    that of training images as they are (healthy trainings: 1.05), and the network gets at least 2
    points more of the same images right with the statistics of each batch: with the weights that
    were kept, or with those of the last epoch. Evidence: the factor, and both shares with their
    intervals.
    """
    said = facts.probes.get("answers") or {}
    n = int(said.get("n_train") or 0)
    for which, one in (("kept", said), ("last epoch's", said.get("last") or {})):
        off = one.get("variance_off")
        if not n or off is None or off < OFF:
            continue
        stored, own = int(one["train_right"]), int(one["train_right_batch_statistics"])
        if (own - stored) / n < LOST:
            continue
        evidence = (
            "stale BatchNorm statistics: the stored variance of the median channel is off by a "
            f"factor of {off:.2f}; of the same {n} training images the {which} network gets "
            f"{wilson_interval(stored, n)} right as it is evaluated, and {wilson_interval(own, n)} "
            "with the statistics of each batch, as it was trained."
        )
        advice = "Let BatchNorm update its statistics in training, or freeze it in training too."
        return diagnosis("T020", "warning", evidence, advice)
    return None


def check_pixels(facts: Facts) -> Diagnosis | None:
    """T019: validation images have another brightness or contrast than training images.

    Fires where the mean (or the spread) of an image's normalised pixels alone tells the two splits
    apart with an AUROC of 0.85 or more, either way, with 20 images each. Evidence: both means and
    the AUROC.
    """
    pixels = facts.probes.get("pixels") or {}
    if min(pixels.get("n_train") or 0, pixels.get("n_val") or 0) < MIN_APART:
        return None
    gaps = {
        name: abs(pixels[name]["auroc"] - 0.5)
        for name in ("brightness", "contrast")
        if (pixels.get(name) or {}).get("auroc") is not None
    }
    name = max(gaps, key=gaps.__getitem__, default="")
    if not name or gaps[name] < APART:
        return None
    here = pixels[name]
    evidence = (
        f"validation unlike train in its pixels: {name} is {here['train']:.2f} in "
        f"{pixels['n_train']} training and {here['val']:.2f} in {pixels['n_val']} validation "
        "images (means, in standard deviations of train); it alone tells the two apart with an "
        f"AUROC of "
        f"{max(here['auroc'], 1 - here['auroc']):.3f}."
    )
    advice = "Read, scale and normalise both splits alike; look for another scanner, stain or site."
    return diagnosis("T019", "warning", evidence, advice)


def check_rate_too_high(facts: Facts) -> Diagnosis | None:
    """T015: the learning rate was too high.

    Fires where training moved the weights by 0.06 of their length or more a square root of steps
    (a random walk's measure; healthy trainings of five kinds of network: 0.008 to 0.032), or train
    loss rose to 1.5 times that of the first epoch. Evidence: the rate, how far the weights moved in
    how many steps, the highest train loss and its epoch.
    """
    history, pace = history_of(facts), _pace(facts)
    loss = history.loss
    if not np.isfinite(loss).all():
        return None  # T004
    worst = int(loss.argmax())
    if not loss[worst] >= GUESS * loss[0] and (pace is None or pace < FAST):
        return None
    parts = [] if pace is None else [_pace_words(facts)]
    if worst:
        parts.append(
            f"train loss was highest, {loss[worst]:.3f}, in epoch {int(history.epoch[worst])}, "
            f"after {loss[0]:.3f} in the first"
        )
    evidence = f"learning rate too high: at up to {_peak(facts):.1e}, {' and '.join(parts)}."
    epoch = int(history.epoch[worst]) if worst else None
    return diagnosis(
        "T015", "warning", evidence, "Lower the learning rate.", epoch=epoch, words="rate too high"
    )


def check_rate_too_low(facts: Facts) -> Diagnosis | None:
    """T016: the learning rate was too low to get anywhere.

    Fires where training moved the weights by under 0.003 of their length a square root of steps
    while under 95 % of the training images are answered right, and the weights kept are from the
    second half of the epochs. Evidence: the rate, how far the weights moved in how many steps,
    train loss, and the share of training images that is right.
    """
    history, pace = history_of(facts), _pace(facts)
    said = facts.probes.get("answers") or {}
    if pace is None or not STILL < pace < SLOW or not said.get("n_train"):
        return None
    right = wilson_interval(said["train_right"], said["n_train"])
    if (right.value or 0.0) >= FITTED or (facts.best_epoch or 0) < history.epoch[-1] / 2:
        return None
    fall = max(0.0, -change(history.loss[0], tail_mean(history.loss)))
    evidence = (
        f"learning rate too low: at up to {_peak(facts):.1e}, {_pace_words(facts)}; train loss "
        f"fell {percent(fall)} over epochs {epochs_words(history)}, and {right} of "
        f"{said['n_train']} training images are right."
    )
    return diagnosis("T016", "warning", evidence, "Raise the learning rate, or train far longer.")


def check_label_noise(facts: Facts) -> Diagnosis | None:
    """T018: many training labels look wrong, those of validation do not.

    Fires where the kept network gets at least 7 points fewer of the training images right, as they
    are, than of validation, which it was not trained on, and the 95 % interval of the difference
    (Newcombe) leaves out 0; not where the model shows no skill. Wrong labels that the network has
    learned by heart are not seen, nor such in both splits. Evidence: both shares, the difference.
    """
    said = facts.probes.get("answers") or {}
    n, m = said.get("n_train"), said.get("n_val")
    if not n or not m or (judged_split(facts)[1] or {}).get("skill") not in (None, "ok"):
        return None
    train, val = wilson_interval(said["train_right"], n), wilson_interval(said["val_right"], m)
    gap = _difference(val, train)
    if (gap.value or 0.0) < BELOW or (gap.low or 0.0) <= 0:
        return None
    evidence = (
        f"label noise suspected: of {n} training images, as they are, the network gets {train} "
        f"right, of {m} validation images, which it was not trained on, {val}: {gap.signed()} more."
    )
    advice = "Look through the training labels; or is validation a choice of easier images?"
    return diagnosis("T018", "warning", evidence, advice)


def check_shortcut(facts: Facts) -> Diagnosis | None:
    """T022: one small place at the rim of the images tells a class by itself.

    Fires where the mean intensity of one of eight small squares at the rim ranks the images of one
    class against the others with an AUROC of 0.95 or more, on training images that did not choose
    the square. Evidence: the place, the class, the AUROC.
    """
    border = facts.probes.get("border") or {}
    if not border or border["auroc"] < PLAIN:
        return None
    side, brighter = border["side_px"], "brighter" if border["brighter"] else "darker"
    evidence = (
        f"shortcut: the {border['place']} alone ({side}×{side} px, {brighter} in "
        f"'{border['class']}') tells '{border['class']}' from the other classes with an AUROC of "
        f"{border['auroc']:.3f} ({border['n_class']} of {border['n']} training images)."
    )
    advice = "Look at that place in the images: crop or mask what is no part of the picture."
    return diagnosis("T022", "warning", evidence, advice)


def _pace(facts: Facts) -> float | None:
    """Weights moved, as a share of their length, a square root of steps."""
    moved, steps = facts.probes.get("weights_moved"), facts.probes.get("steps")
    return float(moved) / float(steps) ** 0.5 if moved is not None and steps else None


def _pace_words(facts: Facts) -> str:
    probes = facts.probes
    return (
        f"training moved the weights by {probes['weights_moved']:.2g} of their length in "
        f"{probes['steps']:,} steps"
    )


def _difference(one: Interval, other: Interval) -> Interval:
    """One share minus another, each with Wilson's interval.

    Source:
        Newcombe, Stat. Med. 17, 1998, method 10.
    """
    if None in (one.value, one.low, one.high, other.value, other.low, other.high):
        return Interval(None, reason="not measured")
    a, a_low, a_high = one.value or 0.0, one.low or 0.0, one.high or 0.0
    b, b_low, b_high = other.value or 0.0, other.low or 0.0, other.high or 0.0
    return Interval(
        a - b,
        a - b - float(np.hypot(a - a_low, b_high - b)),
        a - b + float(np.hypot(a_high - a, b - b_low)),
    )


def _peak(facts: Facts) -> float:
    rates = history_of(facts).lr
    return float(np.nanmax(rates)) if np.isfinite(rates).any() else float("nan")


DATA_CAUSES: tuple[Rule, ...] = (check_order, check_pixels, check_shortcut)
CAUSES: tuple[Rule, ...] = (
    check_order,
    check_rate_too_high,
    check_pixels,
    check_batchnorm,
    check_rate_too_low,
    check_shortcut,
    check_label_noise,
)
