"""Latency and throughput of `scanwise serve`, and whether any answer is lost or mixed up.

A server process answers a client process on the same machine, which keeps its connections. First
one client after another (1, 8, 64 at once), then 64 for a minute, each answer compared with what
the bundle itself says of that image.

    python benchmarks/serve.py RUN [--seconds 10] [--soak 60] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pages import write_between
from scanwise.deploy.bundle import Bundle

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
START, END = "<!-- serve: start -->", "<!-- serve: end -->"
TOLERANCE = 1e-6


@dataclass
class Tally:
    """What one round of clients saw."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0  # another image's answer, or another number
    lost: int = 0  # no answer, or a refusal
    worst: float = 0.0  # largest difference from the bundle's own probability


def make_files(bundle: Bundle, n: int, side_px: int) -> list[bytes]:
    """PNG files of noise around different means, so that each has an answer of its own."""
    rng = np.random.default_rng(0)
    files = []
    for place in range(n):
        grey = rng.normal(60 + 2 * place, 30, (side_px, side_px, bundle.config.channels))
        pixels = grey.clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze() if pixels.shape[2] == 1 else pixels).save(file, "PNG")
        files.append(file.getvalue())
    return files


def request_bytes(data: bytes) -> bytes:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + data
        + b"\r\n--x--\r\n"
    )
    head = (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> dict:
    """One request on a kept connection; the JSON answer, {} for a refusal."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        int(line.split(":")[1])
        for line in head.splitlines()
        if line.lower().startswith("content-length")
    )
    body = await reader.readexactly(length)
    return json.loads(body) if " 200 " in head.splitlines()[0] else {}


async def one_client(
    port: int, place: int, requests: list[bytes], expected: np.ndarray, until: float, tally: Tally
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    row = place * 17
    while time.perf_counter() < until:
        row = (row + 13) % len(requests)
        start = time.perf_counter()
        try:
            said = await ask(reader, writer, requests[row])
        except (OSError, asyncio.IncompleteReadError):
            tally.lost += 1
            break
        tally.seconds.append(time.perf_counter() - start)
        if not said:
            tally.lost += 1
            continue
        apart = float(np.abs(np.array(list(said["probabilities"].values())) - expected[row]).max())
        tally.worst = max(tally.worst, apart)
        tally.wrong += apart > TOLERANCE
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def clients(
    n: int, port: int, seconds: float, requests: list[bytes], expected: np.ndarray
) -> Tally:
    tally = Tally()
    until = time.perf_counter() + seconds
    await asyncio.gather(
        *(one_client(port, place, requests, expected, until, tally) for place in range(n))
    )
    return tally


def answers_of(bundle: Bundle, files: list[bytes]) -> np.ndarray:
    """Each image by itself, as `predict` answers one file."""
    return np.concatenate(
        [bundle.predict_prepared(["x"], [bundle.prepare(data)]).probabilities for data in files]
    )


def row_of(name: str, tally: Tally, seconds: float) -> str:
    p50, p99 = np.percentile(np.array(tally.seconds) * 1000, (50, 99))
    return (
        f"| {name} | {len(tally.seconds) / seconds:,.0f} | {p50:.1f} | {p99:.1f} | "
        f"{len(tally.seconds):,} | {tally.lost} | {tally.wrong} |"
    )


def measure(run: Path, seconds: float, soak: float, side_px: int) -> tuple[str, bool]:
    """The table, and whether all answers came and were right."""
    bundle = Bundle.from_pretrained(run)
    files = make_files(bundle, 96, side_px)
    expected = answers_of(bundle, files)
    requests = [request_bytes(data) for data in files]
    words = [sys.executable, "-m", "scanwise", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    lines, good = [], True
    try:
        assert server.stderr is not None
        port = urlsplit(json.loads(server.stderr.readline())["url"]).port
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        asyncio.run(clients(4, port, 2, requests, expected))  # warm
        rounds = [(1, seconds), (8, seconds), (64, seconds), (64, soak)]
        for number, (n, duration) in enumerate(rounds):
            tally = asyncio.run(clients(n, port, duration, requests, expected))
            name = f"{n}" if number < 3 else f"{n}, for {duration:g} s"
            lines.append(row_of(name, tally, duration))
            print(lines[-1], f"largest difference {tally.worst:.1e}", flush=True)
            good &= not (tally.lost or tally.wrong)
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        drain.wait(10)
    finally:
        if server.poll() is None:
            server.kill()
    head = [
        f"{bundle.config.architecture}, {bundle.input_text()}, PNG files of {side_px} px; server "
        "and clients on the same two cores, one connection a client.",
        "",
        "| clients at once | images/s | p50, ms | p99, ms | answers | lost | wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + lines), good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--soak", type=float, default=60)
    parser.add_argument("--side", type=int, default=64, help="Of the files, px.")
    parser.add_argument("--write", action="store_true", help="Put the table into the docs.")
    chosen = parser.parse_args()
    text, good = measure(chosen.run, chosen.seconds, chosen.soak, chosen.side)
    print(text)
    if chosen.write:
        write_between(PAGE, START, END, text)
    sys.exit(not good)


if __name__ == "__main__":
    main()
