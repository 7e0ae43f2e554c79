"""`scanwise serve BUNDLE…`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from scanwise.cli.shared import start
from scanwise.core.errors import ConfigError

TOKEN = "SCANWISE_TOKEN"


def serve(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE|RUN|NAME=PATH…",
            help="Models to serve; NAME is what clients call one [the run's folder].",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines' need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            help="What every client must send (Authorization: Bearer TOKEN) [$SCANWISE_TOKEN].",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name of this server; may be repeated.", show_default=False),
    ] = None,
    max_mb: Annotated[float, typer.Option(help="Of one file, in MB.")] = 32,
    max_megapixels: Annotated[float, typer.Option(help="Of one image.")] = 50,
    max_files: Annotated[int, typer.Option(help="Of one batch request.")] = 64,
    memory_mb: Annotated[float, typer.Option(help="Of all uploads held at once, in MB.")] = 512,
    timeout_s: Annotated[
        float, typer.Option(help="Seconds to read a request, and to answer it.")
    ] = 30,
    queue: Annotated[int, typer.Option(help="Images accepted and not yet answered.")] = 256,
    batch: Annotated[int, typer.Option(help="Images computed together.")] = 32,
    wait_ms: Annotated[
        float, typer.Option(help="Longest wait for images that are being decoded.")
    ] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "cpu",
    log: Annotated[
        Path | None,
        typer.Option(help="File of answers for `scanwise monitor`: no pixels, no names."),
    ] = None,
    feedback: Annotated[
        Path | None, typer.Option(help="File of the labels that users send to /feedback.")
    ] = None,
    keep_images: Annotated[Path | None, typer.Option(help="Folder to keep uploads in.")] = None,
    log_names: Annotated[
        bool, typer.Option("--log-names", help="Write file names to the log on stderr.")
    ] = False,
) -> None:
    """Answer over HTTP: /predict, /predict/batch, /explain, /docs. Loopback only by default."""
    _hide_token()
    given = {key: value for key, value in locals().items() if key not in ("sources", "allow_host")}
    start(None)
    try:
        # First, before what takes seconds to load; FastAPI asks for multipart only at an upload.
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401

        from scanwise.server.settings import make_settings

        settings = make_settings(
            given
            | {"token": token or os.environ.get(TOKEN) or None}
            | {"allow_hosts": tuple(allow_host or ())}
        )
        from scanwise.server.app import create_app
        from scanwise.server.models import load_models
        from scanwise.server.run import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            "fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client",
        ):  # fmt: skip
            raise
        raise ConfigError(
            f"`scanwise serve` needs an extra ({error.name} is missing): "
            "pip install 'scanwise[serve]'."
        ) from error
    from scanwise.training.device import pick_device

    os.environ.pop(TOKEN, None)  # no child process inherits it
    settings = settings.model_copy(update={"device": pick_device(device).type})
    run_app(create_app(load_models(sources, settings.device), settings), settings)


def _hide_token() -> None:
    """Start anew without --token on the command line, where every user of the machine can read it.

    The token goes into the environment, which only its owner can read; the process id stays.
    """
    words = without_token(sys.orig_argv)
    if words is None:
        return
    rest, secret = words
    os.environ[TOKEN] = secret
    sys.stdout.flush()
    os.execv(sys.executable, rest)


def without_token(words: list[str]) -> tuple[list[str], str] | None:
    """The command line without --token, and the token; None where it has none."""
    rest, secret, take = [], None, False
    for word in words:
        if take:
            secret, take = word, False
        elif word == "--token":
            take = True
        elif word.startswith("--token="):
            secret = word.removeprefix("--token=")
        else:
            rest.append(word)
    return None if secret is None else (rest, secret)
