"""ImageClassifier: the same training under scikit-learn's estimator conventions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Dataset
from scanwise.data.load import from_arrays
from scanwise.data.splits import make_split
from scanwise.deploy.bundle import Bundle
from scanwise.pipeline.fitting import fit_bundle
from scanwise.pipeline.plan import make_plan
from scanwise.pipeline.train import data_facts
from scanwise.pipeline.transfer import with_backbone


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify images with scikit-learn's fit, predict and predict_proba.

    The settings are those of `scanwise train`; None leaves a setting to the plan. A part of the
    training images (`val_fraction`, whole groups) picks the best epoch and the temperature; give
    test images to `score` or `cross_val_score`, never to `fit`.

    Args:
        model: Network spec ("small_resnet:32", "mlp:512,256,128"), or an nn.Module of one's own.
        epochs, batch_size, lr, optimizer, scheduler, augment, class_weights, patience, monitor,
            dropout, preset, contrast: As the flags of `scanwise train`.
        val_fraction: Share of the training images held back for validation, in (0, 1).
        seed: Seed of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        verbose: Print the epoch lines to stderr.

    Attributes:
        classes_: Class labels, in index order.
        bundle_: The trained model with its preprocessing.
        n_features_in_: Values in one image (h * w * c).
    """

    def __init__(
        self,
        model: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        optimizer: str | None = None,
        scheduler: str | None = None,
        augment: str | None = None,
        class_weights: str | None = None,
        patience: int | None = None,
        monitor: str | None = None,
        dropout: float | None = None,
        preset: str | None = None,
        contrast: str = "none",
        val_fraction: float = 0.15,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.augment = augment
        self.class_weights = class_weights
        self.patience = patience
        self.monitor = monitor
        self.dropout = dropout
        self.preset = preset
        self.contrast = contrast
        self.val_fraction = val_fraction
        self.seed = seed
        self.device = device
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train on images (n, h, w) or (n, h, w, c), uint8, uint16 or float.

        Args:
            X: Images.
            y: Labels (n,), any sortable kind; (n, 1), one-hot or multi-label (n, k) also work.
            groups: Patient or slide of each image (n,); none is cut by the validation split.

        Raises:
            DataError: (a ValueError) Naming the first image or label that can't be used.
            ConfigError: (a ValueError) A setting is out of range.
        """
        images = np.asarray(X)
        names, targets = _encode(np.asarray(y))
        dataset = from_arrays(
            images,
            targets,
            groups=None if groups is None else np.asarray(groups),
            class_names=tuple(str(name) for name in names) if names is not None else None,
        )
        self.classes_ = names if names is not None else np.arange(dataset.num_classes)
        self.n_features_in_ = int(np.prod(dataset.images.shape[1:]))
        self.bundle_ = self._train(dataset)
        return self

    def _train(self, dataset: Dataset) -> Bundle:
        own_module = self.model is not None and not isinstance(self.model, str)
        settings = self.get_params(deep=False)
        settings.pop("verbose")
        if own_module:
            settings["model"] = None
        config = make_config(settings)
        if config.preset == "best":
            raise ConfigError("preset='best' is several networks; use scanwise.train for it.")
        split = make_split(
            dataset, seed=self.seed, val_fraction=self.val_fraction, test_fraction=0.0
        )
        config, backbone = with_backbone(config)
        resolved, _, _ = make_plan(
            config,
            data_facts(dataset, split, pretrained=backbone is not None, own_model=own_module),
        )
        return fit_bundle(
            resolved,
            dataset,
            split,
            backbone=backbone,
            model=self.model if own_module else None,
            verbose=self.verbose,
        )

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities float64 (n, k); columns follow `classes_`.

        Raises:
            DataError: (a ValueError) If the images are not of the size and channels of training.
        """
        check_is_fitted(self, "bundle_")
        images = np.asarray(X)
        if images.ndim not in (3, 4):
            raise DataError(f"images must be (n, h, w) or (n, h, w, c), got {images.shape}.")
        return self.bundle_.predict(images).probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each image (n,); multi-label: 0/1 (n, k) above 0.5."""
        probabilities = self.predict_proba(X)
        if self.bundle_.config.task == "multilabel":
            return (probabilities > 0.5).astype(np.int64)
        labels: NDArray[Any] = np.asarray(self.classes_)[probabilities.argmax(axis=1)]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags


def _encode(labels: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Sorted label values and indices for (n,) or (n, 1); None and the matrix for (n, k)."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return None, labels
    names, targets = np.unique(labels.ravel(), return_inverse=True)
    return names, targets.astype(np.int64)
