"""The workbench as a user starts it: a process of its own, on a free port, ended with the test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

START_S = 120.0


@dataclass
class Served:
    """A running workbench."""

    root: Path
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        command = [sys.executable, "-P", "-m", "scanwise", "app", "--no-browser", "--port", "0"]
        log = (self.root.parent / "server.log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--workspace", str(self.root)],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"workbench: (\S+)", self.log())
            if found and _answers(found.group(1)):
                self.url = found.group(1)
                return
            time.sleep(0.2)
        pytest.fail(f"the workbench did not start: {self.log()}")

    def log(self) -> str:
        return (self.root.parent / "server.log").read_text()

    def kill(self) -> None:
        """End the server without a word, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)

    def end(self) -> None:
        from scanwise.app import jobs

        self.kill()
        for job in jobs.running(self.root / "workbench" / "jobs"):
            jobs.stop(job)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/workbench.css", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def workbench(tmp_path: Path) -> Iterator[Callable[[], Served]]:
    """Start a workbench in a workspace of the test's own; it and its trainings end with it."""
    started: list[Served] = []

    def start(prepare: Callable[[Path], None] | None = None) -> Served:
        root = tmp_path / "workspace"
        root.mkdir()
        if prepare is not None:
            prepare(root)
        served = Served(root)
        started.append(served)
        served.start()
        return served

    yield start
    for served in started:
        served.end()


@dataclass
class Watched:
    """A page, and all that went wrong on it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A new page of 1280 px; console errors and requests to elsewhere are gathered."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    with closing(context):
        found = Watched(context.new_page())
        found.page.set_default_timeout(90_000)
        found.page.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else 0)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("request", lambda request: _note(found, request.url))
        found.page.on("websocket", lambda socket: _note(found, socket.url))
        yield found


def _note(found: Watched, url: str) -> None:
    if not re.match(r"(http|ws)://127\.0\.0\.1:\d+/|data:|blob:", url):
        found.foreign.append(url)


@pytest.fixture(scope="session")
def some_cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the real blood cells, in class folders."""
    folder = tmp_path_factory.mktemp("cells") / "blood cells"
    for name, number in (("Platelets", 22), ("RBC", 30), ("WBC", 26)):
        (folder / name).mkdir(parents=True)
        files = sorted((shared / "data/folders/bccd_287" / name).iterdir())[:number]
        for file in files:
            shutil.copy(file, folder / name)
    return folder
