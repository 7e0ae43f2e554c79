"""What was asked here before, and what was answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui

from scanwise.app import widgets as w
from scanwise.app.answers import command_of, list_sets, read_set
from scanwise.app.widgets import Bench
from scanwise.core.errors import ScanwiseError

LEAD = "Every set of pictures that was answered in this workspace, newest first."
MOST = 100


async def build(bench: Bench) -> None:
    with w.frame(bench, "/history", "History of predictions", LEAD):
        sets = list_sets(bench.workspace)
        if not sets:
            w.hint("Nothing was predicted here yet.", "/use", "Use a model")
            return
        for folder, about in sets[:MOST]:
            _entry(bench, folder, about)


def _entry(bench: Bench, folder: Path, about: dict[str, Any]) -> None:
    with w.panel(f"{bench.workspace.name_of(folder)}: {about.get('images', 0):,} pictures"):
        when = str(about.get("when") or "")[:16].replace("T", " ")
        w.text(
            "p",
            f"{when} UTC, answered by {about.get('model')} (SHA-256 "
            f"{str(about.get('model_sha256'))[:12]}…), from {about.get('source')}.",
        )
        with ui.expansion("Summary: answers, and how sure they are").classes("w-full"):
            try:
                found = read_set(folder)
                w.facts([*found.counts(), *found.summary()], ("Answer", "Pictures"))
            except ScanwiseError as error:
                w.problem(str(error))
        with w.element("div", "line"):
            w.link("Open", f"/use?answers={folder.name}")
            w.link("Download the table (CSV)", f"/download/{folder.name}")
        w.command_box(command_of(about))
