"""A bundle whose network is an exported graph: it prepares and answers as the bundle does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, ModelError
from scanwise.core.types import Dataset
from scanwise.data.images import read_image
from scanwise.deploy.answers import BundlePredictions, Outputs
from scanwise.deploy.bundle import Bundle, BundleConfig, Prepared
from scanwise.deploy.reference import Reference
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import PixelRows, Pixels, evaluation_batch

if TYPE_CHECKING:
    from torch import nn

PROBABILITIES, FEATURES = "probabilities", "features"  # names of a graph's outputs
# One uint8 array (b, h, w, c) for each input → probabilities (b, k), and features (b, d) or None.
Runner = Callable[
    [Sequence[NDArray[np.uint8]]], tuple[NDArray[np.float32], NDArray[np.float32] | None]
]


@dataclass(frozen=True)
class GraphInput:
    """One input of the graph: uint8 (n, h, w, c), and how a picture becomes that."""

    name: str
    preprocessing: Preprocessing
    page: int | None = None
    project: Literal["max"] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "page": self.page,
            "project": self.project,
            "preprocessing": self.preprocessing.to_json(),
        }

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any]) -> GraphInput:
        made = Preprocessing.from_json(value["preprocessing"])
        return cls(name, made, value["page"], value["project"])

    def example(self, n: int = 2) -> NDArray[np.uint8]:
        """Images of noise."""
        shape = (n, *self.preprocessing.size_px, self.preprocessing.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class GraphBundle(Bundle):
    """What `predict`, `serve` and `app` need of a bundle; it has no torch module to look into.

    `device` is not heeded: the graph runs where its runner runs it.
    """

    def __init__(
        self,
        runner: Runner,
        inputs: Sequence[GraphInput],
        config: BundleConfig,
        *,
        num_parameters: int,
        metrics: dict[str, Any] | None = None,
        model_card: str = "",
        reference: Reference | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.preprocessing = inputs[0].preprocessing
        self.config = config
        self.metrics = metrics or {}
        self.model_card = model_card
        self.feature_source = None
        self.reference = reference
        self._runner = runner
        self._num_parameters = num_parameters

    @property
    def model(self) -> nn.Module:
        raise ModelError(
            "an exported graph shows no layers or gradients; use the run or its bundle/ folder."
        )

    def load(self) -> None:
        """Nothing is left to load."""

    def prepare(self, source: Path | bytes | NDArray[Any]) -> Prepared:
        """As `Bundle.prepare`: pixels for each input of the graph; a file is decoded once.

        Pixels (h, w) or (h, w, c) of the size trained on are taken too.
        """
        if isinstance(source, np.ndarray):
            return tuple(rows[0] for rows in self._rows(_with_channels(source[None])))
        decoded: dict[tuple[int | None, str | None], NDArray[Any]] = {}
        made = []
        for each in self.inputs:
            way = each.page, each.project
            if way not in decoded:
                decoded[way] = read_image(source, page=each.page, project=each.project).pixels
            made.append(each.preprocessing.from_image(decoded[way]))
        return tuple(made)

    def predict(
        self, inputs: Sequence[str | Path] | str | Path | NDArray[Any], *, device: str = "cpu"
    ) -> BundlePredictions:
        """As `Bundle.predict`."""
        if not isinstance(inputs, np.ndarray):
            return super().predict(inputs, device=device)
        samples = [f"array#{row}" for row in range(len(inputs))]
        if not samples:
            return self.predict_prepared([], [])
        pixels = self._rows(_with_channels(inputs))
        return self._answers(samples, *self._judged(pixels), [""] * len(samples))

    def outputs_of(self, pixels: Pixels, *, device: str = "cpu") -> Outputs:
        """Not of an exported graph, which ends at probabilities.

        Raises:
            ModelError: Always.
        """
        raise ModelError("an exported graph has no logits; use its probabilities.")

    def probabilities_of(self, pixels: Pixels, *, device: str = "cpu") -> NDArray[np.float64]:
        """As `Bundle.probabilities_of`, of a graph with one input.

        Raises:
            ModelError: If members of an ensemble prepare their images differently.
        """
        if len(self.inputs) != 1:
            raise ModelError(f"this graph takes {len(self.inputs)} inputs an image; give files.")
        return self._run([pixels])[0]

    def answers_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """As `Bundle.answers_of_rows`.

        Raises:
            DataError: If an input of the graph has another size than the data set's images.
        """
        return self._run(self._rows(dataset.images, rows))

    def input_text(self) -> str:
        """'28x28 px, 1 channel(s)', of several different inputs all."""
        texts = []
        for each in self.inputs:
            height, width = each.preprocessing.size_px
            texts.append(f"{height}x{width} px, {each.preprocessing.channels} channel(s)")
        return "; ".join(dict.fromkeys(texts))

    def num_parameters(self) -> int:
        return self._num_parameters

    def _write_files(self, folder: Path) -> None:
        raise ModelError("an exported graph can't become a bundle again; copy its file.")

    def _judge_prepared(
        self, prepared: Sequence[Prepared], device: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._judged([np.stack(pixels) for pixels in zip(*prepared, strict=True)])

    def _judged(self, pixels: Sequence[Pixels]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        probabilities, features = self._run(pixels)
        return probabilities, self.unknown_scores(features, len(probabilities))

    def _rows(self, images: NDArray[Any], rows: NDArray[np.int64] | None = None) -> list[PixelRows]:
        chosen = np.arange(len(images)) if rows is None else rows
        return [PixelRows(each.preprocessing, images, chosen) for each in self.inputs]

    def _run(
        self, sources: Sequence[Pixels]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Probabilities (n, k) and features (n, d) of prepared pixels for each input, n > 0."""
        largest = max((each.preprocessing.size_px for each in self.inputs), key=lambda px: px[0])
        step = evaluation_batch(largest)
        probabilities, features = [], []
        for start in range(0, len(sources[0]), step):
            batch = [np.ascontiguousarray(each[start : start + step]) for each in sources]
            answer, vectors = self._runner(batch)
            probabilities.append(answer.astype(np.float64))
            if vectors is not None:
                features.append(vectors)
        whole = np.concatenate(probabilities)
        if not np.isfinite(whole).all():
            raise DataError("the graph gave NaN or infinity; the network diverged.")
        return whole, np.concatenate(features) if features else None


def _with_channels(images: NDArray[Any]) -> NDArray[Any]:
    """Grey images (n, h, w) as (n, h, w, 1); what has another form is refused where it is read."""
    return images[..., None] if images.ndim == 3 else images
