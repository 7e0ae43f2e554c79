"""`scanwise learning-curve`: would more data help? Trainings on nested parts of the training split.

Every number here is of the validation split. Test rows are taken out of the split before the first
training, so no model is trained, chosen or scored on them; only the checks of the data, which look
for copies across splits, read their pixels.
"""

from __future__ import annotations

import copy
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, DataError
from scanwise.core.files import write_json, write_text, write_yaml
from scanwise.core.types import Dataset, Interval, Split, Task, finite_or_none
from scanwise.data.splits import draw_part
from scanwise.metrics import counts as rates
from scanwise.metrics.counts import Counts
from scanwise.metrics.inputs import Floats, Ints, one_hot, predict_classes
from scanwise.metrics.intervals import group_numbers, percentile_interval, resample_weights
from scanwise.metrics.power_law import MIN_SIZES, PowerLaw, fit_power_law
from scanwise.models.backbones import Backbone
from scanwise.pipeline.fitting import fit_bundle
from scanwise.pipeline.messages import Messages
from scanwise.pipeline.plan import make_plan
from scanwise.pipeline.runs import check_output_free
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import (
    check_fitted_settings,
    check_settings,
    data_facts,
    load_data,
    split_and_check,
)
from scanwise.pipeline.transfer import with_backbone
from scanwise.prepare.rows import PixelRows
from scanwise.report.learning_plot import Band, LearningSeries, plot_learning_curve
from scanwise.report.style import save_figure

SHARES = (0.10, 0.25, 0.50, 1.00)
REPEATS = 3
NUM_RESAMPLES = 1000
MAX_EPOCHS = 10_000
LEAST_GAIN = 0.0005  # what three decimals show as 0 is no gain
OVERALL = "balanced_error"  # 1 - balanced accuracy
ERROR = "error"  # 1 - accuracy


@dataclass(frozen=True, eq=False)
class Training:
    """One training: on which share, and its answers on validation."""

    share: float
    repeat: int
    rows: Ints  # (n,) training rows
    epochs: int
    predicted: Ints  # (m,), multi-label (m, k)


@dataclass(frozen=True, eq=False)
class Curve:
    """One error by number of training images, with what doubling them would bring."""

    name: str
    sizes: Floats  # (s,) mean over the repeats
    errors: tuple[Interval, ...]  # (s,)
    law: PowerLaw | None
    band: Band | None
    doubled: Interval | None  # the error at twice the largest size
    gain: Interval | None  # how much the error falls by doubling; negative where it rises
    reason: str  # why there is no extrapolation; '' where there is one

    def verdict(self) -> str:
        """What doubling would bring, in words."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return self.reason
        if self.gain.low >= LEAST_GAIN:
            return "falls"
        return "rises" if self.gain.high <= -LEAST_GAIN else "not distinguishable from no gain"

    def to_json(self) -> dict[str, Any]:
        law = self.law
        return {
            "points": [
                {"images": float(size), **error.to_json()}
                for size, error in zip(self.sizes, self.errors, strict=True)
            ],
            "fit": None
            if law is None
            else {
                # In the words of a * n^-b + c.
                "a": finite_or_none(float(law.a[0] * law.scale ** law.b[0])),
                "b": float(law.b[0]),
                "c": float(law.c[0]),
            },
            "doubling": None
            if self.gain is None or self.doubled is None
            else {
                "images": 2 * float(self.sizes[-1]),
                "error": self.doubled.to_json(),
                "gain": self.gain.to_json(),
                "verdict": self.verdict(),
            },
            "reason": self.reason,
        }


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """What `scanwise learning-curve` found."""

    dataset: Dataset
    split: Split
    config: TrainConfig  # resolved for the whole training split
    trainings: tuple[Training, ...]
    overall: Curve  # 1 - balanced accuracy
    error: Curve  # 1 - accuracy
    classes: tuple[Curve, ...]
    notes: tuple[str, ...]
    singles: tuple[tuple[float, float], ...]  # (images, balanced error) of each training

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "dataset": self.dataset.name,
            "synthetic": self.dataset.provenance.synthetic,
            "scored_on": "val",
            "val_images": len(self.split.val),
            "train_images": len(self.split.train),
            "repeats": 1 + max(training.repeat for training in self.trainings),
            "trainings": [
                {
                    "share": training.share,
                    "repeat": training.repeat,
                    "images": len(training.rows),
                    "epochs": training.epochs,
                    OVERALL: single,
                }
                for training, (_, single) in zip(self.trainings, self.singles, strict=True)
            ],
            OVERALL: self.overall.to_json(),
            ERROR: self.error.to_json(),
            "per_class": {curve.name: curve.to_json() for curve in self.classes},
            "notes": list(self.notes),
        }


def learning_curve(
    config: TrainConfig,
    output: Path | None = None,
    *,
    shares: Sequence[float] = SHARES,
    repeats: int = REPEATS,
) -> LearningCurve:
    """Train on nested parts of the training split, and say what twice the data would bring.

    Args:
        config: As for `train`; the plan fills the rest, for the whole training split. Smaller parts
            get as many more epochs as it takes for about the same number of steps.
        output: New folder for learning_curve.{json,md,png,svg}; None writes nothing.
        shares: Parts of the training split, in (0, 1].
        repeats: Trainings of each part, with other images (of parts below 1) and another seed.

    Raises:
        ConfigError: A share outside (0, 1], or no repeat.
        RunError: If `output` holds something already.
        ScanwiseError: As `train`.
    """
    shares = check_shares(shares, repeats)
    if output is not None:
        check_output_free(output, config.force)
    config = config.model_copy(update={"output": None, "time_limit": None})
    check_settings(config, own_model=False)
    config, backbone = with_backbone(config)
    dataset = load_data(config)
    dataset, split, report = split_and_check(dataset, config)
    if not len(split.val):
        raise DataError(f"{dataset.name} has no validation images to score the parts on.")
    say = Messages()
    say.data(dataset, split, report)
    config, decisions, fired = make_plan(
        config, data_facts(dataset, split, pretrained=backbone is not None)
    )
    say.plan(decisions, fired)
    check_fitted_settings(config, dataset, split)
    split = replace(split, test=np.empty(0, np.int64))
    parts, notes = nested_parts(dataset, split.train, shares, repeats, config.seed)
    trainings = [
        _train(config, dataset, split, backbone, share, repeat, rows)
        for (share, repeat), rows in parts.items()
    ]
    found = summarise(dataset, split, config, trainings, notes)
    if output is not None:
        _write(found, output)
    return found


def check_shares(shares: Sequence[float], repeats: int) -> tuple[float, ...]:
    """The shares, rising and each once.

    Raises:
        ConfigError: If one is outside (0, 1] or the last is not 1, or no repeat is asked for.
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong or not shares:
        named = ", ".join(f"{100 * share:g}" for share in wrong) or "none"
        raise ConfigError(
            f"shares must be percentages above 0 and up to 100, such as 10,25,50,100; got {named}."
        )
    if max(shares) < 1:
        raise ConfigError("shares must end with 100: what doubling brings is told from there.")
    if repeats < 1:
        raise ConfigError(f"repeats={repeats} must be at least 1.")
    return tuple(sorted(set(shares)))


def nested_parts(
    dataset: Dataset, train: Ints, shares: Sequence[float], repeats: int, seed: int
) -> tuple[dict[tuple[float, int], Ints], tuple[str, ...]]:
    """Rows of each share and repeat; within a repeat each part holds the smaller ones.

    Parts are drawn from the next larger one, each class in its share and groups whole. A share
    where a class would have no image, in any repeat, is left out.

    Returns:
        (share, repeat) to sorted rows, and what was left out.
    """
    parts: dict[tuple[float, int], Ints] = {}
    for repeat in range(repeats):
        rows, of = train, 1.0
        for share in sorted(shares, reverse=True):
            if share < of:
                rows = draw_part(dataset, rows, share / of, seed=_seed(seed, repeat, share))
                of = share
            parts[share, repeat] = rows
    there = dataset.class_counts(train) > 0
    notes = []
    for share in sorted(shares):
        counts = [dataset.class_counts(parts[share, repeat]) for repeat in range(repeats)]
        lacking = np.flatnonzero(there & (np.min(counts, axis=0) == 0))
        if len(lacking):
            names = ", ".join(f"'{dataset.class_names[i]}'" for i in lacking)
            notes.append(f"{_percent(share)} is left out: it would have no image of {names}.")
            parts = {key: rows for key, rows in parts.items() if key[0] != share}
    missing = [name for name, known in zip(dataset.class_names, there, strict=True) if not known]
    if missing:
        notes.append(f"The training split has no image of {', '.join(missing)}.")
    return dict(sorted(parts.items())), tuple(notes)


def _seed(seed: int, repeat: int, share: float) -> int:
    key = [seed, repeat, round(1e6 * share)]
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def scaled_settings(config: TrainConfig, num_train: int, num_part: int) -> TrainConfig:
    """The settings for a part: as many epochs as make about the steps of the whole.

    With the same epochs a small part would also be trained for fewer steps, and the curve would
    promise from more data what more steps bring. Patience and warm-up grow alike.
    """
    batch = int(config.batch_size or 1)
    factor = math.ceil(num_train / batch) / math.ceil(num_part / batch)
    epochs = min(MAX_EPOCHS, max(1, round(factor * int(config.epochs or 1))))
    warmup = min(epochs - 1, round(factor * int(config.warmup or 0)))
    patience = math.ceil(factor * int(config.patience or 0))
    return config.model_copy(update={"epochs": epochs, "warmup": warmup, "patience": patience})


def _train(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    backbone: Backbone | None,
    share: float,
    repeat: int,
    rows: Ints,
) -> Training:
    began = time.monotonic()
    settings = scaled_settings(config, len(split.train), len(rows))
    settings = settings.model_copy(update={"seed": (config.seed + repeat) % 2**31})
    if backbone is not None and config.finetune not in (None, "head"):
        backbone = copy.deepcopy(backbone)  # fine-tuning changes it
    bundle = fit_bundle(settings, dataset, replace(split, train=rows), backbone=backbone)
    pixels = PixelRows(bundle.preprocessing, dataset.images, split.val)
    predicted = predict_classes(bundle.probabilities_of(pixels), dataset.task)
    sys.stderr.write(
        f"{_percent(share)}, {len(rows):,} images, repeat {repeat + 1}: "
        f"{settings.epochs} epochs planned, {time.monotonic() - began:.1f} s\n"
    )
    return Training(share, repeat, rows, int(settings.epochs or 1), predicted)


def errors_of(
    predicted: Ints, targets: Ints, num_classes: int, task: Task, weights: Floats
) -> Floats:
    """Errors under r weightings of the images (m, r): balanced, plain, then each class: (2 + k, r).

    1 - balanced accuracy, 1 - accuracy (multi-label: all labels right) and 1 - sensitivity, as
    metrics.json has them; NaN where a weighting has no image of a class.
    """
    truth = one_hot(targets, num_classes, task).T
    said = one_hot(predicted, num_classes, task).T
    every = Counts(
        (truth * said) @ weights,
        ((1 - truth) * said) @ weights,
        (truth * (1 - said)) @ weights,
        ((1 - truth) * (1 - said)) @ weights,
    )
    found = rates.sensitivity(every)
    if task == "multilabel":
        both = (found + rates.specificity(every)) / 2
        balanced = rates.macro_defined(both, every.support)
    else:
        balanced = rates.macro(found, every.support)
    right = (truth == said).all(axis=0).astype(np.float64)
    accuracy = rates.ratio(right @ weights, weights.sum(axis=0))
    return 1.0 - np.vstack([balanced[None], accuracy[None], found])


def summarise(
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    trainings: Sequence[Training],
    notes: Sequence[str] = (),
) -> LearningCurve:
    """Curves, intervals and extrapolation from the answers of all trainings."""
    targets, k = dataset.targets[split.val], dataset.num_classes
    groups = None if dataset.groups is None else tuple(dataset.groups[row] for row in split.val)
    numbers = group_numbers(groups)
    strata = np.zeros(len(targets), np.int64) if dataset.task == "multilabel" else targets
    weights = np.hstack(
        list(resample_weights(strata, numbers, NUM_RESAMPLES, config.seed, k * len(targets)))
    )
    weights = np.hstack([np.ones((len(targets), 1)), weights])  # the estimate comes first
    shares = sorted({training.share for training in trainings})
    repeats = 1 + max(training.repeat for training in trainings)
    table = np.empty((len(shares), repeats, 2 + k, weights.shape[1]))
    for training in trainings:
        table[shares.index(training.share), training.repeat] = errors_of(
            training.predicted, targets, k, dataset.task, weights
        )
    drawn = _mean_over_repeats(table, config.seed)  # (s, 2 + k, 1 + r)
    sizes = np.array(
        [np.mean([len(t.rows) for t in trainings if t.share == share]) for share in shares]
    )
    support = one_hot(targets, k, dataset.task).sum(axis=0).astype(int)
    units = len(targets) if numbers is None else int(numbers.max()) + 1
    names = ["1 − balanced accuracy", "1 − accuracy", *dataset.class_names]
    curves = [
        make_curve(name, sizes, drawn[:, place], units if place < 2 else int(support[place - 2]))
        for place, name in enumerate(names)
    ]
    return LearningCurve(
        dataset=dataset,
        split=split,
        config=config,
        trainings=tuple(trainings),
        overall=curves[0],
        error=curves[1],
        classes=tuple(curves[2:]),
        notes=(*notes, *_cautions(dataset, split, repeats, curves[0])),
        singles=tuple(
            (
                float(len(training.rows)),
                float(table[shares.index(training.share), training.repeat, 0, 0]),
            )
            for training in trainings
        ),
    )


def _mean_over_repeats(table: Floats, seed: int) -> Floats:
    """Mean over repeats (axis 1); in each resample over repeats drawn with replacement.

    The same repeats for all sizes: their parts are nested, so they belong together.
    """
    repeats, resamples = table.shape[1], table.shape[-1]
    rng = np.random.default_rng([seed, 1])
    chosen = rng.integers(0, repeats, (resamples, repeats))
    times = np.stack([(chosen == repeat).mean(axis=1) for repeat in range(repeats)])
    times[:, 0] = 1 / repeats
    mean: Floats = np.einsum("srqi,ri->sqi", table, times)
    return mean


def make_curve(name: str, sizes: Floats, drawn: Floats, units: int) -> Curve:
    """One error's curve.

    Args:
        name: What it is the error of.
        sizes: Training images, float (s,), rising.
        drawn: Errors (s, 1 + r): the estimate, then bootstrap resamples; NaN where a resample has
            no image of the class.
        units: Validation images (groups) behind the estimate.
    """
    if np.isnan(drawn[:, 0]).any():
        reason = "validation has no image of it"
        absent = tuple(Interval(None, reason=reason) for _ in sizes)
        return Curve(name, sizes, absent, None, None, None, None, reason)
    errors = tuple(percentile_interval(float(row[0]), row[1:], units=units) for row in drawn)
    distinct = len(np.unique(sizes))
    if distinct < MIN_SIZES:
        reason = (
            f"not extrapolated: {distinct} distinct numbers of training images, {MIN_SIZES} are "
            "needed to tell a curve from noise"
        )
        return Curve(name, sizes, errors, None, None, None, None, reason)
    whole = drawn[:, ~np.isnan(drawn).any(axis=0)]
    # An error that no resample moves is still not known better than to half an image.
    spread = np.maximum(whole[:, 1:].std(axis=1), 0.5 / units)
    law = fit_power_law(sizes, whole, spread)
    last, double = float(sizes[-1]), 2 * float(sizes[-1])
    grid = np.geomspace(sizes[0], double, 60)
    paths = law.at(grid)
    ends = law.at([last, double])
    return Curve(
        name=name,
        sizes=sizes,
        errors=errors,
        law=law,
        band=Band(grid, paths[:, 0], *np.percentile(paths[:, 1:], [2.5, 97.5], axis=1)),
        doubled=_between(ends[1]),
        gain=_between(ends[0] - ends[1]),
        reason="",
    )


def _between(values: Floats) -> Interval:
    """The estimate (first) with the central 95 % of the resamples; rounding is no gain."""
    values = np.where(np.abs(values) < 1e-9, 0.0, values)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(
        float(values[0]), min(float(low), float(values[0])), max(float(high), float(values[0]))
    )


def _cautions(dataset: Dataset, split: Split, repeats: int, overall: Curve) -> list[str]:
    several = f"{repeats} repeats and" if repeats > 1 else ""
    notes = [
        f"Scored on {len(split.val):,} validation images; no model was trained, chosen or scored "
        "on test images.",
        "Validation also chose each model's best epoch, so the errors themselves are a little too "
        "low.",
        f"Bands: {NUM_RESAMPLES} bootstrap resamples of {several} validation images.",
    ]
    if repeats == 1:
        notes.append("One training a size: the bands leave out what chance does in training.")
    if overall.gain is not None:
        notes.append(
            "What doubling brings is extrapolated one step beyond what was measured; it holds for "
            "new images like the present ones."
        )
    if dataset.provenance.synthetic:
        notes.append("The images are synthetic; nothing here says anything about real ones.")
    return notes


def curve_summary(found: LearningCurve, output: Path | None = None) -> str:
    """What the terminal shows."""
    lines = [
        f"{found.dataset.name}: error on {len(found.split.val):,} validation images by number of "
        "training images [95 %]",
        aligned(_points_table(found)),
        "",
        _doubling_sentence(found),
    ]
    if found.overall.gain is not None:
        lines += ["", aligned(_class_table(found))]
    lines += ["", *found.notes]
    if output is not None:
        lines.append(f"page: {output / 'learning_curve.md'}")
    return "\n".join(lines)


def _points_table(found: LearningCurve) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("training images", found.overall.name, found.error.name)]
    pairs = zip(found.overall.sizes, found.overall.errors, found.error.errors, strict=True)
    rows += [(f"{size:,.0f}", str(balanced), str(plain)) for size, balanced, plain in pairs]
    return rows


def _class_table(found: LearningCurve) -> list[tuple[str, ...]]:
    last = found.overall.sizes[-1]
    rows: list[tuple[str, ...]] = [
        ("class", f"1 − sensitivity at {last:,.0f}", f"at {2 * last:,.0f}", "gain", "verdict")
    ]
    for curve in found.classes:
        if curve.gain is None:
            rows.append((curve.name, str(curve.errors[-1]), "-", "-", curve.reason))
        else:
            rows.append(
                (
                    curve.name,
                    str(curve.errors[-1]),
                    str(curve.doubled),
                    curve.gain.signed(),
                    curve.verdict(),
                )
            )
    return rows


def _doubling_sentence(found: LearningCurve) -> str:
    curve = found.overall
    if curve.gain is None or curve.doubled is None or curve.law is None:
        return f"Twice the training images: {curve.reason}."
    last = curve.sizes[-1]
    fitted = float(curve.law.at([last])[0, 0])
    head = f"Twice the training images ({last:,.0f} → {2 * last:,.0f}): {curve.name}"
    numbers = f"{fitted:.3f} → {curve.doubled} on the fitted curve, a gain of {curve.gain.signed()}"
    if curve.verdict() == "falls":
        return f"{head} would fall, {numbers}."
    if curve.verdict() == "rises":
        return f"{head} would rise, {numbers}: more images like these are not what is missing."
    return f"{head}, {numbers}: not distinguishable from no gain."


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _write(found: LearningCurve, output: Path) -> None:
    """Write the folder beside its place, then move it there: whole or absent."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".learning-curve-") as name:
        folder = Path(name) / "curve"
        folder.mkdir()
        write_json(folder / "learning_curve.json", found.to_json())
        write_yaml(folder / "config.yaml", found.config.model_dump())
        figure = plot_learning_curve(
            _series(found.overall),
            [_series(curve) for curve in found.classes],
            data_name=found.dataset.name,
            num_val=len(found.split.val),
            repeats=found.singles,
        )
        alt = "Error on validation by number of training images. " + _doubling_sentence(found)
        save_figure(figure, folder / "learning_curve", alt)
        write_text(folder / "learning_curve.md", _page(found, alt))
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)


def _series(curve: Curve) -> LearningSeries:
    return LearningSeries(curve.name, curve.sizes, curve.errors, curve.band, curve.doubled)


def _page(found: LearningCurve, alt: str) -> str:
    parts = [
        f"# Would more data help? {found.dataset.name}",
        _doubling_sentence(found),
        f"![{alt}](learning_curve.png)",
        _markdown(_points_table(found)),
    ]
    if found.overall.gain is not None:
        parts += ["## By class (all classes doubled)", _markdown(_class_table(found))]
    parts += ["\n".join(f"- {note}" for note in found.notes)]
    parts += ["**Research software, not a medical device.**"]
    return "\n\n".join(parts) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [" | ".join(row) for row in cells]
    lines.insert(1, " | ".join("---" for _ in rows[0]))
    return "\n".join(f"| {line} |" for line in lines)
