"""What test-time augmentation brought: a network's answers with and without its other views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import SPLIT_NAMES, Dataset
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.members import gain_over
from scanwise.metrics.predictions import Predictions, make_predictions, write_predictions
from scanwise.models.parts import set_views
from scanwise.models.views import VIEWS
from scanwise.pipeline.runs import Run

FILE = "one_view.csv"  # answers to each image alone, in the form of predictions.csv


def answer_one_view(
    run: Run,
    bundle: Bundle,
    dataset: Dataset,
    rows: NDArray[np.int64],
    predictions: Predictions,
    device: str,
) -> dict[str, Any]:
    """Write one_view.csv; return `tta` of metrics.json, {} where the bundle has one view alone.

    Args:
        run: Its folder gets the file.
        bundle: Weights, temperature and preprocessing stay as they are.
        dataset: Of the images.
        rows: Of the images in `predictions`, in their order.
        predictions: Of the bundle with all its views.
        device: Where to compute.
    """
    if bundle.config.tta == "none":
        return {}
    set_views(bundle.model, "none")
    try:
        probabilities = bundle.probabilities_of_rows(dataset, rows, device=device)
    finally:
        set_views(bundle.model, bundle.config.tta)
    alone = make_predictions(
        sample=predictions.sample,
        split=predictions.split,
        targets=predictions.targets,
        probabilities=probabilities,
        class_names=predictions.class_names,
        task=predictions.task,
        groups=predictions.groups,
    )
    write_predictions(run.path / FILE, alone)
    return views_document(predictions, alone, bundle.config.tta)


def views_document(predictions: Predictions, alone: Predictions, tta: str) -> dict[str, Any]:
    """`tta` of metrics.json: which views, and the paired gain on each split over one view."""
    gains = {
        name: gain_over(predictions, [alone], name)
        for name in SPLIT_NAMES
        if name in predictions.split
    }
    return {"tta": {"views": tta, "n_views": len(VIEWS[tta]), "gain": gains}}
