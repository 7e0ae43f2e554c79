"""What a model says of images: one row an input, the same from every entry point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ABSTAIN = "abstain"


class Outputs(NamedTuple):
    """What a network gives for n images."""

    logits: NDArray[np.float32]  # (n, k)
    features: NDArray[np.float32] | None  # (n, d); None where the network shows none


@dataclass(frozen=True)
class Answer:
    """The answer to one input. Without `reason` it could be read; with one, all else is empty."""

    sample: str
    reason: str
    predicted: str  # most probable class; of several labels those above 0.5, joined by "|"
    probability: float | None  # of `predicted`; of several labels the highest
    probabilities: Mapping[str, float]  # by class name, calibrated
    above_threshold: tuple[str, ...] | None  # None: no threshold is stored
    prediction_set: tuple[str, ...] | None  # None: no sets were calibrated
    in_distribution: bool | None  # None: not known
    unknown_score: float | None  # higher: less like the training images

    @property
    def ok(self) -> bool:
        return not self.reason

    @property
    def decision(self) -> str:
        """The class to act on: by the stored thresholds where there are some, else `predicted`.

        "abstain" for an input unlike the training images, whatever its probabilities; "" where no
        class reaches its threshold, and for an input that can't be read.
        """
        if self.in_distribution is False:
            return ABSTAIN
        if self.above_threshold is not None:
            return "|".join(self.above_threshold)
        return self.predicted


@dataclass(frozen=True, eq=False)
class BundlePredictions:
    """Answers for n images, in input order.

    `probabilities` is float64 (n, k); rows of images that could not be read are NaN, their
    `predicted` is "" and `reasons` says why. `predicted` is the most probable class (of several
    labels those above 0.5, joined by "|"), whatever thresholds and sets there are: it is what
    predictions.csv and metrics.json judge. `unknown_scores` float64 (n,) are higher the less an
    image resembles the training images; `in_distribution` says whether they stay below the bundle's
    threshold (which 95 % of validation images do), None where that is not known.
    """

    samples: tuple[str, ...]
    probabilities: NDArray[np.float64]
    predicted: tuple[str, ...]
    class_names: tuple[str, ...]
    reasons: tuple[str, ...]
    unknown_scores: NDArray[np.float64]
    in_distribution: tuple[bool | None, ...]
    # Classes with a stored threshold whose probability reaches it, of each image; none may.
    # None where no threshold is stored (`scanwise thresholds` stores one).
    above_threshold: tuple[tuple[str, ...], ...] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)  # that were applied
    # Prediction set of each image; an empty one means that no class is likely enough.
    # None where no sets were calibrated.
    sets: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Answer]:
        return (self.answer(row) for row in range(len(self)))

    def answer(self, row: int) -> Answer:
        """The answer to one of the images."""
        reason, values = self.reasons[row], self.probabilities[row]
        readable = not reason
        score = float(self.unknown_scores[row])
        return Answer(
            self.samples[row],
            reason,
            self.predicted[row],
            float(values.max()) if readable else None,
            dict(zip(self.class_names, values.tolist(), strict=True)) if readable else {},
            self.above_threshold[row] if readable and self.above_threshold is not None else None,
            self.sets[row] if readable and self.sets is not None else None,
            self.in_distribution[row],
            None if np.isnan(score) else score,
        )
