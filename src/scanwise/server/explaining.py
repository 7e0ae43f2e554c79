"""The picture that /explain sends: the image beside where the evidence for its class lies."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np

from scanwise.core.errors import DataError, ModelError
from scanwise.deploy.answers import ABSTAIN, Answer
from scanwise.deploy.explain import Explanations, class_index, explain, find_way
from scanwise.deploy.subject import subject_of_bytes
from scanwise.report.explanations import plot_explanation, short_names
from scanwise.report.plots import to_display
from scanwise.report.style import DRAWING
from scanwise.report.style import settings as style_settings
from scanwise.server.errors import SEE_DOCS, ApiError
from scanwise.server.models import LoadedModel

DPI = 144


def check_class(model: LoadedModel, class_name: str | None) -> None:
    """Refuse a class that the model has not, before anything is computed.

    Raises:
        ApiError: 422 for an unknown class.
    """
    names = model.bundle.class_names
    if class_name is not None and class_name not in names:
        raise ApiError(
            422,
            "unknown_class",
            "class is no class of the model.",
            f"Use one of {', '.join(names)}.",
        )


def explanation_of(
    model: LoadedModel, data: bytes, method: str, class_name: str | None, device: str
) -> Explanations:
    """The map of one image; for the thread that computes for this model.

    Args:
        model: The model that answered.
        data: The upload, which could be read.
        method: One of deploy.explain.METHODS.
        class_name: Whose evidence [the most probable class's], after `check_class`.
        device: Where to compute.

    Raises:
        ApiError: 501 where this network can't be explained so.
    """
    bundle = model.bundle
    try:
        chosen = None if class_name is None else class_index(bundle, class_name)
        subject = subject_of_bytes(bundle, data)
        explained = None if chosen is None else np.array([chosen], np.int64)
        return explain(subject, find_way(subject, method), explained, device=device)
    except (ModelError, DataError) as error:
        raise ApiError(501, "not_explainable", str(error), SEE_DOCS) from None


def explanation_png(model: LoadedModel, found: Explanations, answer: Answer) -> bytes:
    """Draw a map beside its image, with the answer above; for a thread."""
    with DRAWING:
        return _draw(model, found, answer)


def _draw(model: LoadedModel, found: Explanations, answer: Answer) -> bytes:
    names = model.bundle.class_names
    short = short_names(names)
    explained = names[int(found.explained[0])]
    said = short.get(answer.predicted, answer.predicted or "no label")
    abstains = " · abstain: unlike the training images" if answer.decision == ABSTAIN else ""
    figure = plot_explanation(
        to_display(found.pixels)[0],
        found.maps[0],
        heading=f"predicted: {said} {answer.probability:.3f}{abstains}",
        right=None,
        subject=f"evidence for {short.get(explained, explained)} "
        f"({answer.probabilities[explained]:.3f})",
        how=f"{found.method_text()}; maps tested: {_few_words(model.explanations)}",
        watermark=model.explanations.startswith("Not faithful"),
    )
    file = io.BytesIO()
    alt = f"Map of evidence for {explained}; predicted {answer.predicted}."
    with mpl.rc_context(style_settings()):
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None, "Description": alt})
    return file.getvalue()


def _few_words(explanations: str) -> str:
    if explanations.startswith("not measured"):
        return "no"
    return "failed" if explanations.startswith("Not faithful") else "see /models"
