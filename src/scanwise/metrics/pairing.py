"""Are two models judged on the very same images? Line their answers up, or say what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Task
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Paired:
    """S seeds of two models on the same n images, rows in the order of the sample names."""

    task: Task
    class_names: tuple[str, ...]
    split: str
    targets: Ints  # (n,), multi-label (n, k)
    groups: Ints | None  # (n,) numbers; None where each image stands alone
    base: tuple[Floats, ...]  # S times (n, k)
    variant: tuple[Floats, ...]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def num_seeds(self) -> int:
        return len(self.base)

    @property
    def units(self) -> int:
        """Independent units: images, or groups where several images share one."""
        return len(self) if self.groups is None else int(self.groups.max()) + 1


def pair(base: Sequence[Predictions], variant: Sequence[Predictions]) -> Paired:
    """Bring S seeds of a base and of a variant into one row order.

    Args:
        base, variant: Predictions of one split by each seed; the i-th of one is paired with the
            i-th of the other. Rows may come in any order: they are matched by sample name.

    Raises:
        DataError: If the numbers of seeds differ, or task, classes, split, images, truth or groups
            of one differ from those of the first; names what, how often, and the first case.
    """
    if not base or len(base) != len(variant):
        raise DataError(
            f"base has {len(base)} seeds and variant {len(variant)}; as many of each are needed, "
            "at least one, the i-th of one paired with the i-th of the other."
        )
    first = base[0]
    models = [*_named(base, "base"), *_named(variant, "variant")]
    order = _order(first, models[0][0])
    grouped = next(((name, one) for name, one in models if one.groups is not None), None)
    lined_up = []
    for name, one in models:
        _check_same_kind(first, one, name)
        own = order if one.sample == first.sample else _order(one, name)
        _check_same_rows(first, one, order, own, name)
        if grouped is not None and one.groups is not None:
            _check_same_groups(*grouped, one, name)
        lined_up.append(np.asarray(one.probabilities[own], dtype=np.float64))
    return Paired(
        task=first.task,
        class_names=first.class_names,
        split=first.split[0],
        targets=first.targets[order],
        groups=None if grouped is None else _groups(grouped[1]),
        base=tuple(lined_up[: len(base)]),
        variant=tuple(lined_up[len(base) :]),
    )


def _named(models: Sequence[Predictions], role: str) -> list[tuple[str, Predictions]]:
    if len(models) == 1:
        return [(f"the {role}", models[0])]
    return [(f"seed {i + 1} of the {role}", one) for i, one in enumerate(models)]


def _order(one: Predictions, name: str) -> Ints:
    """Row numbers by sample name, which must be unique to be matched."""
    sample, times = Counter(one.sample).most_common(1)[0]
    if times > 1:
        raise DataError(f"{name} holds sample '{sample}' {times} times; rows can't be matched.")
    return np.array(sorted(range(len(one)), key=one.sample.__getitem__), dtype=np.int64)


def _groups(one: Predictions) -> Ints | None:
    by_sample = dict(zip(one.sample, one.groups or (), strict=True))
    return group_numbers(tuple(by_sample[sample] for sample in sorted(by_sample)))


def _check_same_kind(first: Predictions, one: Predictions, name: str) -> None:
    if one.task != first.task:
        raise DataError(f"{name} is of a {one.task} task, the base of a {first.task} one.")
    if one.class_names != first.class_names:
        raise DataError(
            f"{name} has the classes {', '.join(one.class_names)}; the base has "
            f"{', '.join(first.class_names)}. Names and order must be the same."
        )
    splits = sorted({*one.split, *first.split})
    if len(splits) > 1:
        raise DataError(
            f"{name} and the base hold rows of the splits {', '.join(splits)}; compare on one "
            "split, the same for both."
        )


def _check_same_rows(
    first: Predictions, one: Predictions, order: Ints, own: Ints, name: str
) -> None:
    if one.sample != first.sample:
        here, there = set(one.sample), set(first.sample)
        parts = [
            f"{len(only)} of {total} only in {where} (first '{min(only)}')"
            for only, total, where in (
                (here - there, len(here), name),
                (there - here, len(there), "the base"),
            )
            if only
        ]
        if parts:
            raise DataError(
                f"{name} was not judged on the images of the base: {', '.join(parts)}. Only the "
                "same rows can be compared; use the same splits file for both."
            )
    differs = (one.targets[own] != first.targets[order]).reshape(len(order), -1).any(axis=1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise DataError(
            f"the truth differs on {int(differs.sum())} of {len(order)} images, first "
            f"'{first.sample[order[row]]}': {_truth(one, own[row])} in {name}, "
            f"{_truth(first, order[row])} in the base."
        )


def _check_same_groups(reference: str, given: Predictions, one: Predictions, name: str) -> None:
    if one.sample == given.sample and one.groups == given.groups:
        return
    known = dict(zip(given.sample, given.groups or (), strict=True))
    differs = [
        (sample, group)
        for sample, group in zip(one.sample, one.groups or (), strict=True)
        if known[sample] != group
    ]
    if differs:
        sample, group = min(differs)
        raise DataError(
            f"the group differs on {len(differs)} of {len(one)} images, first '{sample}': "
            f"'{group}' in {name}, '{known[sample]}' in {reference}."
        )


def _truth(one: Predictions, row: np.int64) -> str:
    if one.task != "multilabel":
        return f"'{one.class_names[one.targets[row]]}'"
    chosen = [name for name, yes in zip(one.class_names, one.targets[row], strict=True) if yes]
    return f"'{'|'.join(chosen)}'"
