"""Real servers on free ports of this machine, which stop by themselves."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from scanwise.server.app import create_app
from scanwise.server.models import LoadedModel, load_model
from scanwise.server.run import listen, server_config
from scanwise.server.settings import ServerSettings


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def huge_png(width: int = 10_000, height: int = 10_000) -> bytes:
    """A whole grey PNG of 100 megapixels in some 100 kB."""

    def part(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")


@contextmanager
def serving(models, **settings) -> Iterator[httpx.Client]:
    """uvicorn in a thread, as `scanwise serve` sets it up; yields a client of it."""
    chosen = ServerSettings(**{"port": 0, "timeout_s": 20, **settings})
    app = create_app(models, chosen)
    server = uvicorn.Server(server_config(app, chosen))
    listening = listen(chosen)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        port = listening.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.app = app
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def disc_model(disc_run) -> LoadedModel:
    return load_model("discs", disc_run.path)


@pytest.fixture(scope="session")
def disc_files(discs) -> list[bytes]:
    """The 80 test images as PNGs."""
    return [png(image) for image in np.load(discs)["test_images"]]


@pytest.fixture(scope="module")
def client(disc_model) -> Iterator[httpx.Client]:
    with serving([disc_model]) as opened:
        yield opened


@contextmanager
def started(*words: str, **environ: str) -> Iterator[tuple[subprocess.Popen, str, list[dict]]]:
    """`scanwise serve` as a process; its address, and the lines of its log as they come."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scanwise", "serve", *words, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )
    lines: list[dict] = []
    try:
        lines.append(json.loads(process.stderr.readline()))
        reader = threading.Thread(
            target=lambda: lines.extend(json.loads(line) for line in process.stderr), daemon=True
        )
        reader.start()
        yield process, lines[0]["url"], lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)  # the lines are whole when the block has ended
        process.stderr.close()


def post(client: httpx.Client, data: bytes, name: str = "image.png", **query) -> httpx.Response:
    return client.post("/predict", files={"file": (name, data)}, params=query)


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}
