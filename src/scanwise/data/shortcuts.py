"""Can the label be told without looking at the subject? A tiny model on what should not matter.

Three families of facts are tried by cross-validated logistic regression: *metadata* (size, format,
bytes, camera, name), the *border* of the picture (its outermost pixels and corners), and
*thumbnail* statistics (brightness, contrast, colour). The first two should tell little. The third
may be the real signal, so it is shown and never alarming.

A border that predicts is no shortcut where the picture fills the frame: tissue reaches to the edge.
So the same facts are taken from a frame of the same kind further inside, and the border alarms only
where it tells clearly more than that.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Dataset, Interval
from scanwise.metrics.intervals import group_numbers, logit_interval, resample_weights
from scanwise.metrics.ranks import auroc, make_ranking, roc_areas

ALARM = 0.9  # AUROC from which facts that should not matter tell a class
LOWEST_BOUND = 0.8  # of its interval: ten images reach 0.9 by chance
LESS_WRONG = 2.0  # times further from 1 than the border's AUROC that of the inner frame must be
MOST_IMAGES = 2000
MOST_LABELS = 20  # of a multi-label set, those with most positives
MIN_CLASS = 10
FOLDS = 5
RESAMPLES = 200
SEGMENTS = 8  # of each side of the border
BINS = 8  # of a number; a line would miss a class in the middle
MOST_KINDS = 20  # of a word such as the camera's name; rarer ones are one kind
EXIF = {271: "camera maker", 272: "camera", 305: "software"}  # tags of EXIF 2.3, section 4.6.4

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Columns = dict[str, Floats]  # what it is -> a column (n,)


@dataclass(frozen=True)
class Probe:
    """How well one family of facts tells the label, out of fold."""

    family: str
    auroc: Interval  # macro over classes or labels; value None with the reason why not measured
    by_class: Mapping[str, Interval] = field(default_factory=dict)  # one against the rest
    # The feature that tells each class best by itself, with its AUROC (at least 0.5).
    carriers: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "auroc_macro": self.auroc.to_json(),
            "auroc_by_class": {name: area.to_json() for name, area in self.by_class.items()},
            "carriers": {
                name: {"feature": feature, "auroc": round(area, 4)}
                for name, (feature, area) in self.carriers.items()
            },
        }


@dataclass(frozen=True)
class Shortcuts:
    """The probes of a data set; `n` training images were looked at, `reason` says why none was."""

    n: int
    probes: tuple[Probe, ...] = ()
    reason: str = ""

    def alarming(self) -> dict[str, tuple[Probe, str, Interval]]:
        """Families that should not matter and tell a class nevertheless: the class told best."""
        found = {probe.family: probe for probe in self.probes}
        alarms = {}
        for family, beside in (("metadata", None), ("border", "inner frame")):
            probe, other = found.get(family), found.get(beside or "")
            told = {} if probe is None else _told(probe, other)
            if probe is not None and told:
                name = max(told, key=lambda each: (probe.carriers[each][1], told[each].value))
                alarms[family] = (probe, name, told[name])
        return alarms

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "split": "train",
            "alarm": ALARM,
            "reason": self.reason,
            "alarming": list(self.alarming()),
            "probes": [probe.to_json() for probe in self.probes],
        }


def _told(probe: Probe, beside: Probe | None) -> dict[str, Interval]:
    """Classes that a probe tells from the rest, and clearly better than the one beside it does.

    One class is enough: the mean over eight classes hides that one of them carries a mark.
    """
    told = {name: area for name, area in probe.by_class.items() if _reaches(area)}
    if beside is None:
        return told
    return {
        name: area for name, area in told.items() if _tells_more(area, beside.by_class.get(name))
    }


def _reaches(area: Interval) -> bool:
    return area.value is not None and area.value >= ALARM and (area.low or 0) >= LOWEST_BOUND


def _tells_more(border: Interval, inner: Interval | None) -> bool:
    """Whether the border is clearly above the inner frame: its bound, and half the errors."""
    if inner is None or inner.value is None:
        return True
    assert border.value is not None
    assert border.low is not None
    return border.low > inner.value and 1 - inner.value >= LESS_WRONG * (1 - border.value)


def probe_shortcuts(
    dataset: Dataset,
    rows: Rows,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Shortcuts:
    """Try to tell the label of training images from what should not matter.

    Args:
        dataset: The data; pixels are read in blocks, file headers only of the images drawn.
        rows: Training rows, int (n,); at most 2,000 of them are drawn, rare classes first.
        groups: What must not lie in two folds (patients, clusters of copies), for all rows.
        seed: Of the draw and the folds.

    Returns:
        One probe a family. AUROC is the mean over classes (one against the rest) or labels, of
        scores out of fold, with a 95 % interval that resamples images, or groups where there are.
    """
    targets, names = _targets(dataset, rows)
    drawn = _draw(targets, np.random.default_rng(seed))
    rows, targets = rows[drawn], targets[drawn]
    kept = np.flatnonzero(
        (targets.sum(axis=0) >= MIN_CLASS) & ((~targets).sum(axis=0) >= MIN_CLASS)
    )
    if len(kept) < (1 if dataset.task == "multilabel" else 2):
        few = f"fewer than two classes have {MIN_CLASS} training images"
        return Shortcuts(len(rows), reason=few)
    if dataset.task != "multilabel":
        inside = targets[:, kept].any(axis=1)
        rows, targets = rows[inside], targets[inside]
    targets, names = targets[:, kept], tuple(names[i] for i in kept)
    units = None if groups is None else group_numbers(tuple(groups[row] for row in rows))
    folds = _folds(targets, units, seed)
    if folds is None:
        reason = f"a class lies in fewer than two groups, or none has {MIN_CLASS} images"
        return Shortcuts(len(rows), reason=reason)
    border, inner, thumbnail = _pixel_columns(dataset.images, rows)
    families = {
        "metadata": _metadata(dataset, rows),
        "border": border,
        "inner frame": inner,
        "thumbnail": thumbnail,
    }
    probes = tuple(
        _probe(family, columns, targets, names, folds, units, dataset.task == "multilabel")
        for family, columns in families.items()
    )
    return Shortcuts(len(rows), probes)


# --- which images ------------------------------------------------------------------------------


def _targets(dataset: Dataset, rows: Rows) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Whether each row is of each class, bool (n, k), and the names; of labels the commonest."""
    if dataset.task != "multilabel":
        return dataset.targets[rows, None] == np.arange(dataset.num_classes), dataset.class_names
    table = dataset.targets[rows].astype(bool)
    chosen = np.sort(np.argsort(-table.sum(axis=0), kind="stable")[:MOST_LABELS])
    return table[:, chosen], tuple(dataset.class_names[i] for i in chosen)


def _draw(targets: NDArray[np.bool_], rng: np.random.Generator) -> Rows:
    """At most MOST_IMAGES rows: the same number of each class as far as there are."""
    order = rng.permutation(len(targets))
    if len(order) <= MOST_IMAGES:
        return np.arange(len(targets))
    rarest = np.where(targets.any(axis=1), _rarest(targets), targets.shape[1])
    place = np.empty(len(order), np.int64)  # of each row among those of its class, by chance
    for each in np.unique(rarest):
        mine = order[rarest[order] == each]
        place[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(place[order], kind="stable")[:MOST_IMAGES]])


def _rarest(targets: NDArray[np.bool_]) -> Rows:
    """The rarest class or label of each row."""
    counts = np.where(targets, targets.sum(axis=0), len(targets) + 1)
    return np.asarray(counts.argmin(axis=1))


def _folds(targets: NDArray[np.bool_], units: Rows | None, seed: int) -> Rows | None:
    """Fold of each row, stratified by (rarest) class, whole groups; None where that can't be."""
    from sklearn.model_selection import StratifiedGroupKFold

    kind = _rarest(targets)
    own = np.arange(len(kind)) if units is None else units
    fewest = min(len(np.unique(own[column])) for column in targets.T)
    if fewest < 2:
        return None
    fold = np.zeros(len(kind), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        parts = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
        for number, (_, rows) in enumerate(parts.split(kind[:, None], kind, own)):
            fold[rows] = number
    learned = all(
        column[fold != number].any() and not column[fold != number].all()
        for number in np.unique(fold)
        for column in targets.T
    )
    return fold if learned and fold.any() else None


# --- the model ---------------------------------------------------------------------------------


def _probe(
    family: str,
    columns: Columns,
    targets: NDArray[np.bool_],
    names: Sequence[str],
    folds: Rows,
    units: Rows | None,
    multilabel: bool,
) -> Probe:
    columns = {name: column for name, column in columns.items() if np.ptp(column) > 0}
    if not columns:
        return Probe(family, Interval(None, reason="it is the same for all images"))
    matrix = np.column_stack(
        [_binned(column) for column in columns.values()]
        if family == "metadata"
        else list(columns.values())
    )
    scores = np.empty(targets.shape)
    for number in np.unique(folds):
        test = folds == number
        scores[test] = _fitted_scores(matrix[~test], targets[~test], matrix[test], multilabel)
    macro, each = _areas(scores, targets, units)
    carriers = {name: _carrier(columns, targets[:, i]) for i, name in enumerate(names)}
    return Probe(family, macro, dict(zip(names, each, strict=True)), carriers)


def _binned(column: Floats) -> Floats:
    """A number as indicators of its quantile bins, with itself; a yes or no stays one column."""
    levels = np.unique(column)
    if len(levels) <= 2:
        return column[:, None]
    edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1], method="higher"))
    place = np.searchsorted(edges, column)
    return np.column_stack([column, np.eye(len(edges) + 1)[place]])


def _fitted_scores(
    train: Floats, targets: NDArray[np.bool_], test: Floats, multilabel: bool
) -> Floats:
    """Log-probabilities (m, k) by logistic regression on standardised columns."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(truth: NDArray[Any]) -> Floats:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return np.asarray(model.fit(train, truth).predict_log_proba(test))

    if multilabel:
        return np.column_stack([fit(column)[:, 1] for column in targets.T])
    return fit(targets.argmax(axis=1))


def _areas(
    scores: Floats, targets: NDArray[np.bool_], units: Rows | None
) -> tuple[Interval, tuple[Interval, ...]]:
    """AUROC of the classes' mean and of each class, with intervals over images or whole groups."""
    n, k = targets.shape
    images = np.arange(n)
    rankings = [make_ranking(scores[:, i], targets[:, i], images, n) for i in range(k)]
    blocks = [
        np.stack([roc_areas(ranking, weights) for ranking in rankings])
        for weights in resample_weights(_rarest(targets), units, RESAMPLES, seed=0)
    ]
    drawn = np.concatenate(blocks, axis=1)  # (k, resamples)
    values = np.array([auroc(scores[:, i], targets[:, i]) for i in range(k)])
    own = images if units is None else units

    def interval(value: float, resamples: Floats, count: int) -> Interval:
        noun = "n" if units is None else "groups"
        return logit_interval(value, resamples, units=count, noun=noun)

    each = tuple(
        interval(float(values[i]), drawn[i], len(np.unique(own[targets[:, i]]))) for i in range(k)
    )
    return interval(float(values.mean()), drawn.mean(axis=0), len(np.unique(own))), each


def _carrier(columns: Columns, positive: NDArray[np.bool_]) -> tuple[str, float]:
    """The column that tells a class best by itself, in whichever direction, and its AUROC."""
    areas = {name: auroc(column, positive) for name, column in columns.items()}
    best = max(areas, key=lambda name: abs(areas[name] - 0.5))
    return best, max(areas[best], 1 - areas[best])


# --- pixels ------------------------------------------------------------------------------------


def _pixel_columns(images: NDArray[Any], rows: Rows) -> tuple[Columns, Columns, Columns]:
    """Border, inner frame and thumbnail of each row; each image is read once."""
    found: tuple[list[Floats], list[Floats], list[Floats]] = ([], [], [])
    for row in rows.tolist():
        image = np.asarray(images[row], np.float32)
        height, width = image.shape[:2]
        quarter = image[height // 4 : height - height // 4, width // 4 : width - width // 4]
        for kept, values in zip(
            found, (_frame(image), _frame(quarter), _statistics(image)), strict=True
        ):
            kept.append(values)
    channels = images.shape[3]
    frame, statistics = _frame_names(channels), _statistic_names(channels)
    tables = [np.stack(part) for part in found]
    return (
        {name: tables[0][:, i] for i, name in enumerate(frame)},
        {f"inner {name}": tables[1][:, i] for i, name in enumerate(frame)},
        {name: tables[2][:, i] for i, name in enumerate(statistics)},
    )


SIDES = ("top edge", "bottom edge", "left edge", "right edge")
CORNERS = ("top left corner", "top right corner", "bottom left corner", "bottom right corner")


def _frame(image: NDArray[np.float32]) -> Floats:
    """The outermost pixels of an image (h, w, c): eight means a side, and each corner's mean."""
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    segments = [part.mean(axis=0) for edge in edges for part in _segments(edge)]
    dy, dx = max(1, image.shape[0] // 8), max(1, image.shape[1] // 8)
    corners = (image[:dy, :dx], image[:dy, -dx:], image[-dy:, :dx], image[-dy:, -dx:])
    means = [corner.mean(axis=(0, 1)) for corner in corners]
    return np.concatenate([*segments, *means]).astype(np.float64)


def _segments(edge: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The eight parts of an edge (l, c); they overlap where it has fewer pixels."""
    starts = np.linspace(0, len(edge), SEGMENTS + 1).astype(int)
    return [edge[start : max(start + 1, end)] for start, end in pairwise(starts.tolist())]


def _frame_names(channels: int) -> list[str]:
    places = [f"{side} {part + 1} of {SEGMENTS}" for side in SIDES for part in range(SEGMENTS)]
    return [
        f"{place}{_channel(i, channels)}" for place in [*places, *CORNERS] for i in range(channels)
    ]


def _channel(index: int, channels: int) -> str:
    if channels == 1:
        return ""
    return f" ({('red', 'green', 'blue')[index]})" if channels == 3 else f" (channel {index})"


def _statistics(image: NDArray[np.float32]) -> Floats:
    """Brightness, contrast, quantiles, and each channel's mean of an image (h, w, c)."""
    grey = image.mean(axis=2)
    quantiles = np.quantile(grey, (0.05, 0.5, 0.95))
    channels = image.mean(axis=(0, 1))
    own = channels - channels.mean() if len(channels) > 1 else channels[:0]
    return np.concatenate([[grey.mean(), grey.std()], quantiles, own]).astype(np.float64)


def _statistic_names(channels: int) -> list[str]:
    own = [f"tint{_channel(i, channels)}" for i in range(channels)] if channels > 1 else []
    return ["brightness", "contrast", "darkest 5 %", "median grey", "brightest 5 %", *own]


# --- metadata ----------------------------------------------------------------------------------


def _metadata(dataset: Dataset, rows: Rows) -> Columns:
    """What is known of the files without their pixels; grey or colour is the one exception."""
    numbers: Columns = {}
    words: dict[str, list[str]] = {}
    if dataset.original_sizes is not None:
        height, width = dataset.original_sizes[rows].astype(np.float64).T
        numbers |= {"height": height, "width": width, "aspect ratio": width / np.maximum(height, 1)}
    if dataset.channels == 3:
        grey = [_is_grey(np.asarray(dataset.images[row])) for row in rows.tolist()]
        numbers["grey without colour"] = np.array(grey, np.float64)
    if dataset.paths is not None:
        paths = [dataset.paths[row] for row in rows.tolist()]
        numbers["bytes a pixel"] = _bytes_a_pixel(dataset, rows, paths)
        words |= _of_headers(paths)
    if dataset.provenance.files:
        named, counted = _of_names([dataset.sample_ids[row] for row in rows], dataset.class_names)
        words |= named
        numbers |= counted
    return _indicators(words) | numbers  # of equally telling ones the first is named


def _is_grey(image: NDArray[Any]) -> bool:
    return bool((image == image[..., :1]).all())


def _bytes_a_pixel(dataset: Dataset, rows: Rows, paths: Sequence[str]) -> Floats:
    sizes = np.array([os.path.getsize(path) if os.path.exists(path) else 0 for path in paths])
    pixels = (
        np.ones(len(rows))
        if dataset.original_sizes is None
        else (dataset.original_sizes[rows].prod(axis=1))
    )
    return np.asarray(sizes / np.maximum(pixels, 1), np.float64)


def _of_headers(paths: Sequence[str]) -> dict[str, list[str]]:
    """Format, mode and the camera's EXIF words of files; what can't be read is 'unknown'."""
    from PIL import Image

    found: dict[str, list[str]] = {name: [] for name in ("format", "mode", *EXIF.values())}
    for path in paths:
        facts = dict.fromkeys(found, "unknown")
        facts["format"] = Path(path).suffix.lower() or "none"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path) as image:
                    facts |= {"format": str(image.format), "mode": image.mode}
                    tags = image.getexif()
                    facts |= {
                        name: str(tags.get(tag, "none")).strip() for tag, name in EXIF.items()
                    }
        except Exception:  # DICOM, 16-bit TIFF …: the reader knows them, Pillow does not
            pass
        for name, value in facts.items():
            found[name].append(value)
    return found


def _of_names(
    names: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, list[str]], Columns]:
    """Of each file's name: its first letters and separators, its length, digits and numbers.

    Words of the classes are taken out first: a name that says the class is no shortcut, since no
    model sees it. Numbers themselves are not used: files are often numbered class by class.
    """
    known = sorted({word for each in class_names for word in _words(each)}, key=len, reverse=True)
    bare = [_without(PurePosixPath(name).stem, known) for name in names]
    words = {
        "first letters of the name": [re.split(r"[\d\W_]", stem, maxsplit=1)[0] for stem in bare],
        "separators in the name": [re.sub(r"[^\W_]", "", stem) for stem in bare],
        "ending of the name": [PurePosixPath(name).suffix for name in names],
    }
    digits = np.array([sum(map(str.isdecimal, stem)) for stem in bare], np.float64)
    numbers = np.array([len(re.findall(r"\d+", stem)) for stem in bare], np.float64)
    return words, {"digits in the name": digits, "numbers in the name": numbers}


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]+", text.casefold()) if len(word) > 1]


def _without(stem: str, known: Sequence[str]) -> str:
    bare = stem.casefold()
    for word in known:
        bare = bare.replace(word, "")
    return bare.strip("-_. ")


def _indicators(words: dict[str, list[str]]) -> Columns:
    """Each common value of a word as a column of 0 and 1; all rare ones together as another."""
    columns: Columns = {}
    for name, values in words.items():
        common = [value for value, _ in Counter(values).most_common(MOST_KINDS)]
        for value in common:
            columns[f"{name} '{value}'"] = np.array([each == value for each in values], np.float64)
        columns[f"{name} (rare)"] = np.array([each not in common for each in values], np.float64)
    return columns
