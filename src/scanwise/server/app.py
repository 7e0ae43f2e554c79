"""The application: routes, refusals, documentation, and the two layers around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from scanwise import __version__
from scanwise.server.access import Access
from scanwise.server.docs_page import docs_html
from scanwise.server.errors import install_handlers
from scanwise.server.logs import RequestLog
from scanwise.server.models import LoadedModel
from scanwise.server.routes import router
from scanwise.server.schemas import NOTICE
from scanwise.server.service import Service
from scanwise.server.settings import ServerSettings

DESCRIPTION = (
    f"Answers of trained classifiers of medical images. {NOTICE} Every refusal is "
    "{error, detail, fix}."
)
# The page has no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"


def create_app(models: Iterable[LoadedModel], settings: ServerSettings) -> FastAPI:
    """The service as an ASGI application; another page may be put on top of it.

    Args:
        models: What answers. None at all is allowed: routes that need one say 503 until
            `app.state.service.add` is called.
        settings: Limits and files; `host` and `token` are what `Access` checks.

    Raises:
        ConfigError: Two models of one name.
        RunError: A file to write can't be written.
    """
    service = Service(models, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="scanwise",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(router)
    install_handlers(app)
    _add_docs(app, settings)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(RequestLog, meters=service.meters)  # the outermost: it logs refusals too
    return app


def _add_docs(app: FastAPI, settings: ServerSettings) -> None:
    """A page made from the OpenAPI, which states the token where there is one."""
    plain_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain_openapi()
        if settings.token is not None:
            schema["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            schema["security"] = [{"token": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        html = docs_html(app.openapi(), form=settings.token is None)
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})
