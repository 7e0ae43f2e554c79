"""Share units (images or whole groups) out to splits so that every class is represented fairly.

One method serves single labels, label sets and groups. Units with the same class counts are of one
kind; for each kind, the largest first, the shares that bring the splits closest to their targets
are found in closed form, and only the remainders are placed one by one. So the work grows with the
number of kinds, not of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_Counts = NDArray[np.int64]
_MAX_SWAP_CELLS = 400_000  # beyond that many numbers a round, shares are fair enough without swaps
_MAX_SWAPS = 200
_LEAST_GAIN = 0.01  # a class 4 % closer in a split of 15 %; less would give every seed one split
_MAX_TRIED_WAYS = 3**10  # to share 10 groups out to three splits


@dataclass(frozen=True, eq=False)
class Units:
    """What is to be shared out; every unit goes to one split whole.

    A column of `kinds` is a class or a label, and the last one the number of images: whatever each
    split should get its share of.
    """

    kinds: _Counts  # (t, c) how much of each column a unit of this kind carries
    kind_of_unit: _Counts  # (u,), values in [0, t)
    required: NDArray[np.bool_]  # (c,) columns that each split should have at least one of
    importance: NDArray[np.float64]  # (c,) weight of a column when they pull in different ways


def share_out(units: Units, fractions: tuple[float, ...], rng: np.random.Generator) -> _Counts:
    """Choose the split of each unit.

    Args:
        units: What to share out.
        fractions: Wanted share of each split; positive, sum 1. Where a required column is too rare
            for all splits, the earlier ones get it.
        rng: Decides between equals, so the result depends on the order of the units.

    Returns:
        Split number of each unit, int (u,), values in [0, len(fractions)).

    Source:
        The greedy order, rarest label first, is that of Sechidis et al., ECML-PKDD 2011 (iterative
        stratification), here applied to whole kinds at once.
    """
    sharing = _Sharing(units, np.array(fractions))
    for kind in _large_and_rare_first(units, rng):
        sharing.place(int(kind))
    sharing.fill_gaps()
    sharing.try_all_if_gaps_stay()
    sharing.swap_while_it_helps()
    return _deal(units.kind_of_unit, sharing.placed, rng)


def _large_and_rare_first(units: Units, rng: np.random.Generator) -> _Counts:
    """Order of the kinds: by size in powers of two, then by their rarest column, then by chance.

    Sizes are coarse because in their exact order few groups would be split alike for every seed.
    """
    copies = np.bincount(units.kind_of_unit, minlength=len(units.kinds))
    totals = (units.kinds * copies[:, None]).sum(axis=0)
    rarest = np.where(units.kinds > 0, totals, np.iinfo(np.int64).max).min(axis=1)
    octave = np.floor(np.log2(np.maximum(units.kinds.max(axis=1), 1)))
    return np.lexsort((rng.random(len(copies)), rarest, -octave))


def _deal(kind_of_unit: _Counts, placed: _Counts, rng: np.random.Generator) -> _Counts:
    """Draw which units of each kind make up the numbers in `placed` (t, s)."""
    num_kinds, num_splits = placed.shape
    shuffled = np.lexsort((rng.random(len(kind_of_unit)), kind_of_unit))
    split_of_unit = np.empty(len(kind_of_unit), np.int64)
    split_of_unit[shuffled] = np.repeat(np.tile(np.arange(num_splits), num_kinds), placed.ravel())
    return split_of_unit


class _Sharing:
    """Numbers of units of each kind placed in each split so far.

    The distance from the target is the sum over splits s and columns j of
    ((have_sj - want_sj) / n_j)^2 / f_s times the importance of the column: an image of a rare class
    weighs more than one of a common class, and small splits count as much as large ones.
    """

    def __init__(self, units: Units, fractions: NDArray[np.float64]) -> None:
        self.kinds = units.kinds
        self.copies = np.bincount(units.kind_of_unit, minlength=len(units.kinds))
        self.fractions = fractions
        totals = (self.kinds * self.copies[:, None]).sum(axis=0)
        self.want = fractions[:, None] * totals
        self.have = np.zeros((len(fractions), len(totals)), np.int64)
        self.placed = np.zeros((len(self.kinds), len(fractions)), np.int64)
        self.required = units.required & (totals > 0)
        self.rarest_first = np.argsort(totals, kind="stable")
        # (s, c): the weight of a squared error.
        self.weight = 1 / (np.maximum(totals, 1) ** 2 * fractions[:, None])
        self.weight *= units.importance

    def place(self, kind: int) -> None:
        """Share all copies of one kind out."""
        row, column_weight = self.kinds[kind], self.weight[0] * self.fractions[0]
        pull = ((self.have - self.want) * row * column_weight).sum(axis=1)
        stiffness = float((row * row * column_weight).sum())
        copies = int(self.copies[kind])
        add = np.zeros(len(pull), np.int64)
        if copies > 1:
            add = np.floor(_even_shares(copies, pull, stiffness, self.fractions) + 1e-9).astype(
                np.int64
            )
        for _ in range(copies - int(add.sum())):
            add[np.argmin((2 * pull + stiffness * (2 * add + 1)) / self.fractions)] += 1
        self.placed[kind] = add
        self.have += add[:, None] * row

    def fill_gaps(self) -> None:
        """Give each split at least one unit of every required column, as far as units allow.

        An earlier split may take the last one of a later split, never the other way round; so each
        pass leaves the gaps of earlier splits filled.
        """
        for split in range(len(self.fractions)):
            for column in self.rarest_first:
                if self.required[column] and self.have[split, column] == 0:
                    self._bring(int(column), split)

    def _bring(self, column: int, split: int) -> None:
        """Move the unit that does the least harm into `split`; nothing where none may be moved."""
        kinds, donors = np.nonzero((self.placed > 0) & (self.kinds[:, [column]] > 0))
        rows = self.kinds[kinds]
        empties = (self.required & (rows > 0) & (self.have[donors] <= rows)).any(axis=1)
        allowed = ~empties | (donors > split)
        kinds, donors, rows, empties = (
            values[allowed] for values in (kinds, donors, rows, empties)
        )
        if not len(kinds):
            return
        harm = self._change(donors, -rows) + self._change(np.full(len(donors), split), rows)
        best = np.lexsort((harm, empties))[0]
        self._move(int(kinds[best]), int(donors[best]), split)

    def try_all_if_gaps_stay(self) -> None:
        """Where a handful of groups left a gap, look at every way to share them out.

        Best is what has all columns in the first split, then no empty split, then the fewest gaps,
        then the least distance.
        """
        gaps = (self.have == 0) & self.required
        units = np.repeat(np.arange(len(self.kinds)), self.copies)
        num_splits = len(self.fractions)
        if not gaps.any() or num_splits ** len(units) > _MAX_TRIED_WAYS:
            return
        ways = np.indices((num_splits,) * len(units)).reshape(len(units), -1).T
        have = np.stack(
            [(ways == i).astype(np.int64) @ self.kinds[units] for i in range(num_splits)]
        )
        missing = ((have == 0) & self.required).sum(axis=2)
        empty = (have[..., -1] == 0).sum(axis=0)
        distance = ((have - self.want[:, None]) ** 2 * self.weight[:, None]).sum(axis=(0, 2))
        best = ways[np.lexsort((distance, *missing[:0:-1], empty, missing[0]))[0]]
        self.placed[:] = 0
        np.add.at(self.placed, (units, best), 1)
        self.have = self.placed.T @ self.kinds

    def swap_while_it_helps(self) -> None:
        """Move a unit or swap two as long as that brings the splits closer to their targets."""
        num_kinds, num_columns = self.kinds.shape
        if (num_kinds + 1) ** 2 * num_columns > _MAX_SWAP_CELLS:
            return
        for _ in range(_MAX_SWAPS):
            swaps = [self._best_swap(a, b) for a, b in combinations(range(len(self.have)), 2)]
            change, (a, b), (given, taken) = min(swaps)
            if change > -_LEAST_GAIN:
                return
            if given < num_kinds:
                self._move(given, a, b)
            if taken < num_kinds:
                self._move(taken, b, a)

    def _best_swap(self, a: int, b: int) -> tuple[float, tuple[int, int], tuple[int, int]]:
        """Best exchange of one unit (or none) of split a for one (or none) of split b."""
        none = len(self.kinds)
        rows = np.vstack([self.kinds, np.zeros_like(self.kinds[:1])])
        given = np.append(np.flatnonzero(self.placed[:, a]), none)
        taken = np.append(np.flatnonzero(self.placed[:, b]), none)
        shift = rows[given][:, None] - rows[taken][None]
        empties = (self.have[a] > 0) & (self.have[a] <= shift)
        empties |= (self.have[b] > 0) & (self.have[b] <= -shift)
        change = self._change(a, -shift) + self._change(b, shift)
        change[(empties & self.required).any(axis=-1)] = np.inf
        g, t = np.unravel_index(int(change.argmin()), change.shape)
        return float(change[g, t]), (a, b), (int(given[g]), int(taken[t]))

    def _change(self, split: int | _Counts, rows: _Counts) -> NDArray[np.float64]:
        """How much the distance grows when `rows` (..., c) are added to `split`."""
        gap = (self.have - self.want)[split]
        change: NDArray[np.float64] = ((2 * gap + rows) * rows * self.weight[split]).sum(axis=-1)
        return change

    def _move(self, kind: int, source: int, target: int) -> None:
        self.placed[kind, source] -= 1
        self.placed[kind, target] += 1
        self.have[source] -= self.kinds[kind]
        self.have[target] += self.kinds[kind]


def _even_shares(
    copies: int, pull: NDArray[np.float64], stiffness: float, fractions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Real shares x >= 0 of sum `copies` with least sum of (2 pull x + stiffness x²) / fraction."""
    active = np.ones(len(pull), bool)
    while True:
        level = (copies * stiffness + pull[active].sum()) / fractions[active].sum()
        shares = np.where(active, (fractions * level - pull) / stiffness, 0.0)
        if (shares >= 0).all():
            return shares
        active &= shares > 0
