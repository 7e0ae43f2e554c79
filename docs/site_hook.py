"""What mkdocs does not do by itself: pages from outside docs/, and a site that asks nobody.

Links are written for the repository's pages (`../README.md`). Files outside docs/ that the pages
link to become a part of the site below repository/, and the links are turned there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "CITATION.cff",
    "examples/*/*.*",
)
PREFIX = "repository/"
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")
# The theme loads these for diagrams, very old browsers and repository badges only; we have none.
FOREIGN = re.compile(r"https://(?:unpkg\.com|api\.github\.com)/")


# Pages of the navigation that belong to parts which a checkout may not have yet.
OPTIONAL = {"predicting.md", "exporting.md", "serving.md", "workbench.md"}


def on_config(config: Any) -> Any:
    """Leave optional pages out of the navigation where they are not there."""
    gone = {name for name in OPTIONAL if not (Path(config.docs_dir) / name).is_file()}
    for section in config.nav:
        for title, pages in section.items():
            if isinstance(pages, list):
                section[title] = [page for page in pages if not gone & set(map(str, page.values()))]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that its pages link to."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        place = PREFIX + path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links of the repository's pages into links of the site's."""
    here = _in_repository(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        if (ROOT / target).is_dir():
            target += "/README.md"
        place = posixpath.relpath(_on_site(target), posixpath.dirname(page.file.src_uri) or ".")
        return place + (match[2] or "")

    return LINK.sub(turned, markdown)


def on_post_build(config: Any) -> None:
    """Take the theme's addresses of other servers out, and let the search work from a folder."""
    site = Path(config.site_dir)
    for script in site.rglob("assets/javascripts/*.js"):
        script.write_text(FOREIGN.sub("./", script.read_text(encoding="utf-8")), encoding="utf-8")
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    (site / "search" / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def _in_repository(uri: str) -> str:
    return uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else f"docs/{uri}"


def _on_site(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else PREFIX + path
