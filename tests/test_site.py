"""The documentation as a site: built without a warning, and asking no other machine."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("index.html", "guide.html", "reference/commands.html", "tutorials/clinical.html",
         "repository/examples/pathmnist_mlp_study/index.html")  # fmt: skip
# Namespaces and licences are names, not places to load from.
NAMES = re.compile(r"https?://(?:www\.w3\.org/|\$\{)")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; strict: a broken link or a page outside the navigation fails it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    words = ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    assert not list(site.rglob("*.py")) or all("repository" in p.parts for p in site.rglob("*.py"))


def test_no_file_loads_anything_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\s(?:src|srcset)=[\"']?((?:https?:)?//[^\"'\s>]+)"
        r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*?\shref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    )
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text("utf-8")) == [], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert re.findall(r"url\([\"']?(?:https?:)?//|@import", text) == [], sheet
    for script in site.rglob("*.js"):
        if script.name != "search_index.js":
            quoted = re.findall(r"[\"'`](https?://[^\"'`]*)", script.read_text("utf-8"))
            assert [url for url in quoted if not NAMES.match(url)] == [], script


def test_links_between_files_of_the_site_lead_somewhere(site: Path) -> None:
    broken = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(r"(?:href|src)=[\"']?([^\"'\s>]+)", page.read_text("utf-8")):
            path = target.partition("#")[0]
            if path and not re.match(r"[a-z]+:|//", path) and not (page.parent / path).exists():
                broken.append((page.relative_to(site), target))
    assert broken == []


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site on a free port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["served", "from the folder"])
def test_a_browser_asks_nobody_else_and_finds_what_is_searched(
    browser, site: Path, address: str, how: str
) -> None:
    start = address if how == "served" else site.as_uri() + "/"
    asked, said = [], []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for name in PAGES:
        page.goto(start + name)
        page.wait_for_load_state("load")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.set_viewport_size({"width": 1280, "height": 900})
    page.locator(".md-search__input").click()
    page.keyboard.type("balanced accuracy")
    page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    assert "accuracy" in page.locator(".md-search-result__item").first.inner_text().lower()
    context.close()
    assert [url for url in asked if not url.startswith((start, "data:", "blob:", "about:"))] == []
    assert said == []
