"""What goes over the wire; these models make the OpenAPI too."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scanwise.deploy.answers import Answer

NOTICE = "Research software, not a medical device."


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ErrorBody(Body):
    """Why there is no answer."""

    error: str = Field(description="One word for programs, such as not_an_image.")
    detail: str = Field(description="What is wrong.")
    fix: str = Field(description="What to do.")


class ModelRef(Body):
    """Which model answered."""

    id: str
    sha256: str = Field(description="Of the bundle's list of hashes: any changed file changes it.")


class Timing(Body):
    """Where the time went, in ms."""

    decode_ms: float = Field(description="Waiting for a decoder, decoding, preparing.")
    wait_ms: float = Field(description="Waiting for the network.")
    predict_ms: float = Field(description="The network, on the whole batch.")
    batch_size: int = Field(description="Images computed together.")


class Prediction(Body):
    """The answer to one image."""

    request_id: str = Field(description="For /feedback.")
    name: str | None = Field(description="The file's name as sent; nothing is done with it.")
    model: ModelRef
    predicted: str = Field(description="Most probable class; several labels joined by |.")
    probability: float = Field(description="Of `predicted`; of several labels the highest.")
    probabilities: dict[str, float] = Field(
        description="By class, calibrated; with ?topk= the highest, in falling order."
    )
    above_threshold: list[str] | None = Field(
        description="Classes that reach their stored threshold; null: none is stored."
    )
    prediction_set: list[str] | None = Field(
        description="Classes that can't be excluded; null: sets were not calibrated."
    )
    in_distribution: bool | None = Field(
        description="Is it like the training images? null: not known."
    )
    unknown_score: float | None = Field(description="Higher: less like the training images.")
    decision: str = Field(
        description='By thresholds where stored, else `predicted`; "abstain" for unknown inputs.'
    )
    timing: Timing
    notice: str = NOTICE

    @classmethod
    def of(
        cls,
        answer: Answer,
        timing: Timing,
        *,
        request_id: str,
        name: str | None,
        model: ModelRef,
        topk: int | None,
    ) -> Prediction:
        """From an answer that could be given."""
        score = answer.unknown_score
        assert answer.probability is not None
        return cls(
            request_id=request_id,
            name=name,
            model=model,
            predicted=answer.predicted,
            probability=answer.probability,
            probabilities=_highest(dict(answer.probabilities), topk),
            above_threshold=_listed(answer.above_threshold),
            prediction_set=_listed(answer.prediction_set),
            in_distribution=answer.in_distribution,
            unknown_score=None if score is None or not math.isfinite(score) else score,
            decision=answer.decision,
            timing=timing,
        )


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _highest(probabilities: dict[str, float], topk: int | None) -> dict[str, float]:
    if topk is None:
        return probabilities
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    return dict(ranked[:topk])


class BatchItem(Body):
    """One file of a batch: an answer, or why there is none."""

    status: Literal["ok", "error"]
    name: str | None
    code: int = Field(description="The status that /predict would have given.")
    prediction: Prediction | None = None
    error: ErrorBody | None = None


class BatchAnswer(Body):
    """One row a file, in the order sent."""

    request_id: str
    model: ModelRef
    num_ok: int
    num_errors: int
    results: list[BatchItem]
    notice: str = NOTICE


class ModelFacts(Body):
    """A loaded model."""

    id: str
    sha256: str
    architecture: str
    task: str
    class_names: list[str]
    input: str
    num_parameters: int
    trained_on: str
    synthetic: bool = Field(description="Trained on made-up pictures: a demonstration only.")
    thresholds: dict[str, float]
    recognises_unknown_inputs: bool
    has_prediction_sets: bool
    explanations: str = Field(description="Were its maps of evidence tested, and how it went.")


class ModelList(Body):
    models: list[ModelFacts]
    notice: str = NOTICE


class Health(Body):
    status: Literal["ok"]
    version: str
    num_models: int
    in_progress: int = Field(description="Images accepted and not yet answered.")


class Feedback(Body):
    """What the truth was."""

    request_id: str = Field(min_length=1, max_length=64)
    label: str = Field(
        max_length=1000, description="A class of the model; of several labels a|b, or empty."
    )
    note: str = Field(default="", max_length=1000)


class FeedbackAnswer(Body):
    request_id: str
    stored: Literal[True] = True
    predicted: str
    agrees: bool


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`."""
    return {code: {"model": ErrorBody} for code in codes}
