"""Everything that goes wrong has one form: {error, detail, fix}."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from scanwise.server.schemas import ErrorBody

SEE_DOCS = "See /docs for what each route takes."


class ApiError(HTTPException):
    """A request that gets no answer, and why; `error` is a word that programs can rely on."""

    def __init__(
        self,
        status: int,
        error: str,
        detail: str,
        fix: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.error = error
        self.fix = fix

    def body(self) -> ErrorBody:
        return ErrorBody(error=self.error, detail=self.detail, fix=self.fix)


class NotReadable(ApiError):
    """A file that is not answered; of a batch only this one."""


def error_response(error: ApiError) -> Response:
    return JSONResponse(error.body().model_dump(), error.status_code, headers=error.headers)


def busy(detail: str) -> ApiError:
    """429: come back in a second."""
    return ApiError(
        429, "busy", detail, "Send it again after the seconds in Retry-After.", {"Retry-After": "1"}
    )


def too_late(detail: str) -> ApiError:
    return ApiError(504, "timeout", detail, "Send it again, or start with a higher --timeout-s.")


def broken() -> ApiError:
    """500, without a word about what happened inside: that is in the log."""
    return ApiError(
        500,
        "internal",
        "the server failed while answering; nothing is known about the image.",
        "The log on the server's stderr has the reason beside this X-Request-ID.",
    )


def install_handlers(app: FastAPI) -> None:
    """Give every refusal of FastAPI and Starlette the same form."""

    @app.exception_handler(HTTPException)
    async def _refused(request: Request, error: HTTPException) -> Response:
        return error_response(error if isinstance(error, ApiError) else _plain(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(invalid(list(error.errors())))


def invalid(items: list[dict[str, object]]) -> ApiError:
    """422 for parameters and JSON, each named once; values are not repeated."""
    words = []
    for item in items:
        place = item["loc"] if isinstance(item["loc"], tuple) else ()
        where = ".".join(str(part) for part in place if part not in ("query", "body"))
        message = str(item["msg"])
        words.append(f"{where or 'body'}: {message[0].lower()}{message[1:]}")
    return ApiError(422, "invalid", "; ".join(words) + ".", SEE_DOCS)


def _plain(error: HTTPException) -> ApiError:
    """404, 405 and what else the router says itself."""
    phrase = HTTPStatus(error.status_code).phrase
    detail = {
        404: "there is no such route.",
        405: "this route does not take that method.",
    }.get(error.status_code, f"{error.detail}".rstrip(".") + ".")
    code = phrase.lower().replace(" ", "_")
    return ApiError(error.status_code, code, detail, SEE_DOCS, error.headers)
