"""What every rule of the diagnosis is made of: a Diagnosis, and numbers in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Finding, Severity
from scanwise.report.history import History
from scanwise.report.verdict import Facts

MIN_EPOCHS = 3


@dataclass(frozen=True)
class Diagnosis:
    """A finding about the training, and the epoch where it shows (for the plot)."""

    finding: Finding
    epoch: int | None = None
    words: str = ""  # two or three words for the plot


Rule = Callable[[Facts], "Diagnosis | None"]


def history_of(facts: Facts) -> History:
    assert facts.history is not None
    return facts.history


def tail_mean(values: NDArray[np.float64], rows: int = 2) -> float:
    """Mean of the last finite values; one noisy epoch decides nothing."""
    finite = values[np.isfinite(values)]
    return float(finite[-rows:].mean()) if len(finite) else float("nan")


def change(start: float, end: float) -> float:
    """Relative change from start to end; NaN from zero."""
    return float(end / start - 1) if start else float("nan")


def percent(share: float, digits: int = 0) -> str:
    """0.183 as '18 %'."""
    return f"{100 * share:.{digits}f} %"


def epochs_words(history: History) -> str:
    return f"{int(history.epoch[0])} to {int(history.epoch[-1])}"


def diagnosis(
    code: str,
    severity: Severity,
    evidence: str,
    advice: str = "",
    *,
    epoch: int | None = None,
    words: str = "",
) -> Diagnosis:
    return Diagnosis(Finding(code, severity, evidence, advice), epoch, words)
