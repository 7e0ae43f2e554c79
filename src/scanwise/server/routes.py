"""The routes: read, ask, answer. What they share is in `Service`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from scanwise import __version__
from scanwise.deploy.answers import Answer
from scanwise.server.errors import ApiError, NotReadable, invalid, too_late
from scanwise.server.explaining import check_class, explanation_of, explanation_png
from scanwise.server.limits import client_gone, read_body, read_files
from scanwise.server.metrics import CONTENT_TYPE
from scanwise.server.schemas import (
    BatchAnswer,
    BatchItem,
    Feedback,
    FeedbackAnswer,
    Health,
    ModelFacts,
    ModelList,
    Prediction,
    Timing,
    error_responses,
)
from scanwise.server.service import ServedModel, Service

T = TypeVar("T")
FEEDBACK_BYTES = 16_000
PNG = "image/png"
Method = Literal["auto", "gradcam", "occlusion", "integrated-gradients"]
ModelQuery = Annotated[
    str | None, Query(description="Which model, where several are loaded.", max_length=200)
]
TopQuery = Annotated[
    int | None, Query(ge=1, description="Give only the highest probabilities, in falling order.")
]
ClassQuery = Annotated[
    str | None,
    Query(alias="class", description="Whose evidence [the predicted class's].", max_length=200),
]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
router = APIRouter(responses=error_responses(401, 403, 500))


@router.get("/health", tags=["state"], responses=error_responses(503))
async def health(service: ServiceOf) -> Health:
    """Is there a model that answers?"""
    service.choose_any()
    models = service.models()
    return Health(
        status="ok",
        version=__version__,
        num_models=len(models),
        in_progress=sum(each.batcher.pending for each in models),
    )


@router.get("/models", tags=["state"])
async def models(service: ServiceOf) -> ModelList:
    """The loaded models: classes, input, hash."""
    return ModelList(models=[_facts(each) for each in service.models()])


def _facts(served: ServedModel) -> ModelFacts:
    model, bundle = served.model, served.model.bundle
    config = bundle.config
    return ModelFacts(
        id=model.name,
        sha256=model.sha256,
        architecture=config.architecture,
        task=config.task,
        class_names=list(config.class_names),
        input=bundle.input_text(),
        num_parameters=bundle.num_parameters(),
        trained_on=config.trained_on,
        synthetic=config.synthetic,
        thresholds=dict(config.thresholds),
        recognises_unknown_inputs=bundle.reference is not None,
        has_prediction_sets=config.conformal is not None,
        explanations=model.explanations,
    )


@router.get(
    "/metrics",
    tags=["state"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus."""
    return Response(service.meters.text(), headers={"Content-Type": CONTENT_TYPE})


def _form(field: str, many: bool) -> dict[str, Any]:
    """The body of an upload, for the OpenAPI."""
    file = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "properties": {field: {"type": "array", "items": file, "minItems": 1} if many else file},
        "required": [field],
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


UPLOAD_ERRORS = error_responses(400, 404, 408, 413, 415, 422, 429, 503, 504)
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        "description": "The answer; or with explain the picture, its answer in X-Prediction.",
    },
    **error_responses(501),
}


@router.post(
    "/predict",
    tags=["answers"],
    response_model=Prediction,
    responses={**UPLOAD_ERRORS, **PICTURE},
    openapi_extra=_form("file", many=False),
)
async def predict(
    request: Request,
    service: ServiceOf,
    model: ModelQuery = None,
    topk: TopQuery = None,
    explain: Annotated[
        Method | None, Query(description="Send a picture of the evidence instead, as /explain.")
    ] = None,
) -> Any:
    """Answer one image, sent as the form's field `file`."""
    async with _upload(request, service, model) as upload:
        if explain is not None:
            return await _explained(upload, explain, None, topk)
        prediction, answer = await _answered(upload, topk)
        _record(upload, answer)
        return prediction


@router.post(
    "/explain",
    tags=["answers"],
    response_class=Response,
    responses={
        **UPLOAD_ERRORS,
        **PICTURE,
        200: {**PICTURE[200], "description": "A picture; the answer is in X-Prediction, as JSON."},
    },
    openapi_extra=_form("file", many=False),
)
async def explain(
    request: Request,
    service: ServiceOf,
    model: ModelQuery = None,
    method: Method = "auto",
    class_name: ClassQuery = None,
    topk: TopQuery = None,
) -> Response:
    """Draw where in one image the evidence for its class lies."""
    async with _upload(request, service, model) as upload:
        return await _explained(upload, method, class_name, topk)


@router.post(
    "/predict/batch",
    tags=["answers"],
    responses=UPLOAD_ERRORS,
    openapi_extra=_form("files", many=True),
)
async def predict_batch(
    request: Request, service: ServiceOf, model: ModelQuery = None, topk: TopQuery = None
) -> BatchAnswer:
    """Answer several images, sent as the form's field `files`: one row a file, in that order."""
    served = service.choose(model)
    settings = service.settings
    with service.uploads.share() as share:
        reading = read_files(request, "files", settings.batch_bytes, settings.max_files, share)
        files = await _in_time(reading, settings.timeout_s, _slow_upload())
        note_request(request, served, files)
        with served.batcher.places(len(files)):
            ids = [f"{request.state.request_id}.{place}" for place in range(len(files))]
            uploads = [
                _Upload(request, service, served, name, data, request_id)
                for (name, data), request_id in zip(files, ids, strict=True)
            ]
            found = await _for_client(
                request, asyncio.gather(*(_row(one, topk) for one in uploads)), settings.timeout_s
            )
            for one, (_, answer) in zip(uploads, found, strict=True):
                if answer is not None:
                    _record(one, answer)
    rows = [row for row, _ in found]
    errors = sum(row.status == "error" for row in rows)
    return BatchAnswer(
        request_id=request.state.request_id,
        model=served.ref,
        num_ok=len(rows) - errors,
        num_errors=errors,
        results=rows,
    )


async def _row(upload: _Upload, topk: int | None) -> tuple[BatchItem, Answer | None]:
    try:
        prediction, answer = await _ask(upload, topk)
    except NotReadable as error:
        row = BatchItem(
            status="error", name=upload.name, code=error.status_code, error=error.body()
        )
        return row, None
    return BatchItem(status="ok", name=upload.name, code=200, prediction=prediction), answer


@router.post(
    "/feedback",
    tags=["feedback"],
    responses=error_responses(400, 404, 408, 413, 422, 429, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": Feedback.model_json_schema()}},
        }
    },
)
async def feedback(request: Request, service: ServiceOf) -> FeedbackAnswer:
    """Say what the truth was, by the request_id of an answer."""
    with service.uploads.share() as share:
        reading = read_body(request, FEEDBACK_BYTES, share)
        body = await _in_time(reading, service.settings.timeout_s, _slow_upload())
    try:
        given = Feedback.model_validate_json(body)
    except ValidationError as error:
        raise invalid([dict(item) for item in error.errors()]) from None
    known = service.take_feedback(given)
    return FeedbackAnswer(
        request_id=given.request_id,
        predicted=known.predicted,
        agrees=given.label == known.predicted,
    )


# --- One upload ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Upload:
    request: Request
    service: Service
    served: ServedModel
    name: str | None
    data: bytes
    request_id: str


@asynccontextmanager
async def _upload(request: Request, service: Service, model: str | None) -> AsyncIterator[_Upload]:
    """Read the one file of a request and take a place in the queue; both are given back."""
    served = service.choose(model)
    settings = service.settings
    with service.uploads.share() as share:
        reading = read_files(request, "file", settings.max_bytes, 1, share)
        files = await _in_time(reading, settings.timeout_s, _slow_upload())
        note_request(request, served, files)
        with served.batcher.places(1):
            name, data = files[0]
            yield _Upload(request, service, served, name, data, request.state.request_id)


def note_request(
    request: Request, served: ServedModel, files: Sequence[tuple[str | None, bytes]]
) -> None:
    """What the log line will say besides; names only where asked for."""
    facts = {
        "model": served.model.name,
        "images": len(files),
        "bytes": sum(len(data) for _, data in files),
    }
    if request.app.state.service.settings.log_names:
        facts["names"] = [name for name, _ in files]
    request.state.facts.update(facts)


async def _answered(upload: _Upload, topk: int | None) -> tuple[Prediction, Answer]:
    return await _for_client(upload.request, _ask(upload, topk), upload.service.settings.timeout_s)


async def _ask(upload: _Upload, topk: int | None) -> tuple[Prediction, Answer]:
    """The answer to one file; `_record` it where it is delivered.

    Raises:
        NotReadable: If the file can't be answered.
    """
    service, served = upload.service, upload.served
    try:
        answer, timing = await served.batcher.answer(upload.data)
    except NotReadable as error:
        service.meters.refused(served.model.name, error.error)
        raise
    return _prediction(upload, answer, timing, topk), answer


def _record(upload: _Upload, answer: Answer) -> None:
    """Count and write down an answer that the client gets; one it does not get is none."""
    upload.service.record(upload.served, upload.request_id, answer, upload.data)


def _prediction(upload: _Upload, answer: Answer, timing: Timing, topk: int | None) -> Prediction:
    return Prediction.of(
        answer,
        timing,
        request_id=upload.request_id,
        name=upload.name,
        model=upload.served.ref,
        topk=topk,
    )


async def _explained(
    upload: _Upload, method: str, class_name: str | None, topk: int | None
) -> Response:
    """The picture; the answer goes along in a header, as ASCII JSON."""
    check_class(upload.served.model, class_name)
    timeout_s = upload.service.settings.timeout_s
    prediction, answer = await _answered(upload, topk)
    png = await _for_client(upload.request, _picture(upload, answer, method, class_name), timeout_s)
    _record(upload, answer)
    said = json.dumps(prediction.model_dump(exclude={"name"}))
    return Response(png, media_type=PNG, headers={"X-Prediction": said})


async def _picture(upload: _Upload, answer: Answer, method: str, class_name: str | None) -> bytes:
    served, device = upload.served, upload.service.settings.device
    found = await served.batcher.alone(
        partial(explanation_of, served.model, upload.data, method, class_name, device)
    )
    return await asyncio.to_thread(explanation_png, served.model, found, answer)


# --- Time, and clients that go away --------------------------------------------------------------


def _slow_upload() -> ApiError:
    return ApiError(408, "slow_upload", "the request did not arrive in time.", "Send it again.")


async def _in_time(work: Awaitable[T], timeout_s: float, error: ApiError) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        raise error from None


async def _for_client(request: Request, work: Awaitable[T], timeout_s: float) -> T:
    """Wait for an answer as long as there is time and a client; else drop it.

    Raises:
        ApiError: 504 without an answer in time, 499 where nobody waits any more.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise (
            client_gone() if gone.done() else too_late(f"there is no answer after {timeout_s:g} s.")
        )
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    """Returns when the client has closed the connection; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
