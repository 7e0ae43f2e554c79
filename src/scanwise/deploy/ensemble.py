"""Several bundles that answer as one: the weighted mean of their calibrated probabilities.

bundle/
  config.json      "kind": "ensemble", the members with their weights, task, id2label
  members/00/ …    ordinary bundles, each with its own SHA256SUMS
  metrics.json     what was measured of the ensemble
  MODEL_CARD.md    what it is for, and what it is not
  SHA256SUMS       hashes of all files above, those of the members too
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scanwise import __version__
from scanwise.core.errors import DataError, IntegrityError, ModelError
from scanwise.core.types import Dataset
from scanwise.data.images import read_image
from scanwise.deploy.answers import BundlePredictions, Outputs
from scanwise.deploy.bundle import (
    MEMBERS,
    Bundle,
    BundleConfig,
    Prepared,
    Source,
    write_bundle_json,
)
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import PixelRows, Pixels

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Member:
    """One bundle of an ensemble."""

    bundle: Bundle
    weight: float  # above 0; those of all members sum to 1
    run: str  # name of the run that it came from


class EnsembleBundle(Bundle):
    """Bundles that vote; each prepares the images itself, as it does alone.

    It answers as every bundle does: `predict`, `probabilities_of`, `probabilities_of_rows`,
    `config`, `class_names`, `metrics`, `model_card`, `save_pretrained`. It has no single `model`,
    `preprocessing` or logits: those are its members'.

    Raises:
        ModelError: No member, members of other classes or tasks, or weights that are no weights.
    """

    def __init__(
        self,
        members: Sequence[Member],
        method: str = "soft",
        metrics: dict[str, Any] | None = None,
        model_card: str = "",
    ) -> None:
        _check_members(members)
        self.members = tuple(members)
        self.method = method
        # What all bundles state. Size and channels are the first member's (`input_text` has all).
        self.config = replace(
            members[0].bundle.config,
            architecture=describe_members([each.bundle.config.architecture for each in members]),
            dropout=None,
            activation="",
            head=None,
            output_activation="auto",
            temperature=1.0,  # the members are calibrated, their mean is not calibrated again
            thresholds={},
            conformal=None,
            tta="none",  # each member has its own views
            scanwise_version=__version__,
            backbone=None,
        )
        self.metrics = metrics or {}
        self.model_card = model_card
        self.feature_source = None
        self.reference = None  # its members have their own

    @property
    def model(self) -> nn.Module:
        raise self._no_single("model")

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]
        raise self._no_single("preprocessing")

    def load(self) -> None:
        """As `Bundle.load`, of all members."""
        for each in self._bundles():
            each.load()

    def _no_single(self, what: str) -> ModelError:
        return ModelError(
            f"an ensemble of {len(self.members)} bundles has no single {what}; use one of its "
            f"members (bundle/{MEMBERS}/00, …), or probabilities."
        )

    @classmethod
    def from_folder(
        cls, folder: Path, stated: dict[str, Any], *, lazily: bool = False
    ) -> EnsembleBundle:
        """Load the members that config.json states; `folder` was compared with its SHA256SUMS.

        Raises:
            IntegrityError: If a member is missing or changed, or config.json is damaged.
        """
        config = BundleConfig.from_json(stated)
        try:
            method = str(stated["method"])
            # Of the name alone: what lies outside of the bundle is never opened.
            entries = [
                (folder / MEMBERS / Path(each["folder"]).name, float(each["weight"]), each["run"])
                for each in stated["members"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{folder}/config.json is damaged: {error!r}.") from error
        members = [
            Member(Bundle.from_pretrained(path, lazily=lazily), *facts) for path, *facts in entries
        ]
        card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        found = cls(members, method, metrics, card)
        if (found.class_names, found.config.task) != (config.class_names, config.task):
            raise IntegrityError(
                f"{folder}/config.json names classes {list(config.class_names)} ({config.task}), "
                f"its members {list(found.class_names)} ({found.config.task})."
            )
        found.config = config
        return found

    def predict(
        self, inputs: Sequence[str | Path] | str | Path | NDArray[Any], *, device: str = "cpu"
    ) -> BundlePredictions:
        """As `Bundle.predict`; an image that one member can't read has no answer.

        Whether an image is unknown is what the first member says.
        """
        if not isinstance(inputs, np.ndarray):
            return super().predict(inputs, device=device)
        answers = [each.predict(inputs, device=device) for each in self._bundles()]
        return self._answers(
            answers[0].samples,
            self._mean([answer.probabilities for answer in answers]),
            answers[0].unknown_scores,
            answers[0].reasons,
        )

    def prepare(self, source: Source) -> Prepared:
        """As `Bundle.prepare`; a file is decoded once for members that read it the same way."""
        if isinstance(source, np.ndarray):
            return tuple(each.prepare(source)[0] for each in self._bundles())
        decoded: dict[tuple[int | None, str | None], NDArray[Any]] = {}
        made = []
        for each in self._bundles():
            way = each.config.page, each.config.project
            if way not in decoded:
                decoded[way] = read_image(source, page=way[0], project=way[1]).pixels
            made.append(each.preprocessing.from_image(decoded[way]))
        return tuple(made)

    def _judge_prepared(
        self, prepared: Sequence[Prepared], device: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        judged = [
            each._judge_prepared([(one[member],) for one in prepared], device)
            for member, each in enumerate(self._bundles())
        ]
        return self._mean([one[0] for one in judged]), judged[0][1]

    def in_distribution(self, scores: NDArray[np.float64]) -> tuple[bool | None, ...]:
        """What the first member says, whose scores these are."""
        return self._bundles()[0].in_distribution(scores)

    def logits_of(self, pixels: Pixels, *, device: str = "cpu") -> NDArray[np.float32]:
        """Not of an ensemble: the mean of probabilities has no logits.

        Raises:
            ModelError: Always.
        """
        raise ModelError("an ensemble has no logits; use its probabilities, or one of its members.")

    def outputs_of(self, pixels: Pixels, *, device: str = "cpu") -> Outputs:
        """Not of an ensemble, as `logits_of`.

        Raises:
            ModelError: Always.
        """
        raise ModelError("an ensemble has no features; use those of one of its members.")

    def answers_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> tuple[NDArray[np.float64], None]:
        """As `probabilities_of_rows`; an ensemble has no features."""
        return self.probabilities_of_rows(dataset, rows, device=device), None

    def probabilities_of(
        self, pixels: Pixels | NDArray[Any], *, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """Mean probabilities float64 (n, k) of images (n, h, w, c) of the size trained on.

        The images are as a data set has them: each member prepares them itself.
        """
        if isinstance(pixels, PixelRows):
            images, rows = pixels.images, pixels.rows
        else:
            images, rows = pixels, np.arange(len(pixels))
        return self._mean(
            [
                each.probabilities_of(PixelRows(each.preprocessing, images, rows), device=device)
                for each in self._bundles()
            ]
        )

    def probabilities_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """Mean probabilities float64 (n, k) of some images of a data set.

        Members that read files in different ways (another size, say) read them again.

        Raises:
            DataError: If a file can't be read any more.
        """
        ways = {
            (
                each.preprocessing.size_px,
                each.preprocessing.fit,
                each.config.page,
                each.config.project,
            )
            for each in self._bundles()
        }
        if len(ways) == 1 or dataset.paths is None:
            first = self._bundles()[0].preprocessing
            return self.probabilities_of(PixelRows(first, dataset.images, rows), device=device)
        found = self.predict([dataset.paths[row] for row in rows], device=device)
        if reasons := [reason for reason in found.reasons if reason]:
            raise DataError(f"{len(reasons)} files can't be read any more: {reasons[0]}")
        return found.probabilities

    def input_text(self) -> str:
        """What each member takes, once each: '28x28 px, 1 channel(s); 64x64 px, 1 channel(s)'."""
        return "; ".join(dict.fromkeys(each.input_text() for each in self._bundles()))

    def num_parameters(self) -> int:
        return sum(each.num_parameters() for each in self._bundles())

    def _bundles(self) -> tuple[Bundle, ...]:
        return tuple(each.bundle for each in self.members)

    def _mean(self, probabilities: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return weighted_mean(probabilities, [each.weight for each in self.members])

    def _write_files(self, folder: Path) -> None:
        entries = []
        for number, each in enumerate(self.members):
            name = f"{MEMBERS}/{number:02d}"
            each.bundle.save_pretrained(folder / name)
            entries.append({"folder": name, "weight": each.weight, "run": each.run})
        stated = {"kind": "ensemble", "method": self.method, "members": entries}
        write_bundle_json(folder / "config.json", stated | self.config.to_json())
        write_bundle_json(folder / "metrics.json", self.metrics)
        (folder / "MODEL_CARD.md").write_text(self.model_card, encoding="utf-8")


def weighted_mean(
    parts: Sequence[NDArray[np.float64]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Sum of weight times part, in the given order."""
    total = weights[0] * parts[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + weight * part
    return total


def describe_members(architectures: Sequence[str]) -> str:
    """'ensemble of 3 (2 mlp:32, resnet18)'"""
    counts = Counter(architectures)
    parts = [name if times == 1 else f"{times} {name}" for name, times in counts.items()]
    return f"ensemble of {len(architectures)} ({', '.join(parts)})"


def _check_members(members: Sequence[Member]) -> None:
    if not members:
        raise ModelError("an ensemble needs at least one bundle.")
    weights = [each.weight for each in members]
    if min(weights) <= 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-9):
        raise ModelError(f"weights must be above 0 and sum to 1, got {weights}.")
    nested = [each.run for each in members if isinstance(each.bundle, EnsembleBundle)]
    if nested:
        raise ModelError(f"{nested[0]} is an ensemble itself; name its members instead.")
    first = members[0].bundle.config
    for each in members[1:]:
        other = each.bundle.config
        if (first.class_names, first.task) != (other.class_names, other.task):
            raise ModelError(
                f"{each.run} has classes {list(other.class_names)} ({other.task}), "
                f"{members[0].run} {list(first.class_names)} ({first.task}); they can't be "
                "averaged."
            )
