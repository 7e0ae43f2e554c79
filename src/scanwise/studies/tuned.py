"""How to search, and what a search found: the values that `tune` and its page share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scanwise.core.errors import ConfigError
from scanwise.core.types import Dataset, Interval
from scanwise.metrics.selection import Chosen
from scanwise.studies.nested import Nested
from scanwise.studies.search import PRUNERS, Pruner, Search, Trial

TRIALS = 30
MOST_TRIALS = 10_000


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        trials: In all, those of an earlier call into the same folder included.
        search: As `--search`; None searches what suits the network.
        cv: Inner folds that each trial is judged by; None is the validation split.
        nested: Outer folds of an estimate of tuning and training together; None has none.
        pruner: What ends hopeless trials early.
    """

    trials: int = TRIALS
    search: str | None = None
    cv: int | None = None
    nested: int | None = None
    pruner: Pruner = "median"

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= MOST_TRIALS:
            raise ConfigError(f"trials={self.trials} must lie between 1 and {MOST_TRIALS:,}.")
        if self.pruner not in PRUNERS:
            raise ConfigError(f"pruner='{self.pruner}': write {', '.join(PRUNERS)}.")
        for name in ("cv", "nested"):
            folds = getattr(self, name)
            if folds is not None and not 2 <= folds <= 100:
                raise ConfigError(f"{name}={folds}: the number of folds must lie in 2 to 100.")


@dataclass(frozen=True, eq=False)
class Tuned:
    """What `scanwise tune` found."""

    folder: Path
    dataset: Dataset
    search: Search
    options: Options
    trials: tuple[Trial, ...]
    best: Trial
    score: Interval  # of the best trial, on the images that chose it
    chosen: Chosen  # the same, with the luck of being chosen taken off
    default: Interval | None  # of trial 0; None if it failed
    gain: Interval | None  # of the best over trial 0, on the same images; None if it is trial 0
    importance: dict[str, Interval] | str
    nested: Nested | None
    num_test: int

    @property
    def num_val(self) -> int:
        """Images that every trial was judged by."""
        return len(self.search.judge.targets)
