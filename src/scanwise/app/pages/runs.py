"""All runs of the workspace, and two of them beside each other."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui

from scanwise.app import widgets as w
from scanwise.app.widgets import Bench
from scanwise.pipeline.summary import looks_text
from scanwise.studies.run_comparison import RunComparison, compare_runs
from scanwise.studies.run_table import RunRow, RunTable, list_runs

LEAD = "Every training of this workspace with its scores and their 95 % intervals, newest first."


async def build(bench: Bench) -> None:
    with w.frame(bench, "/runs", "Runs", LEAD):
        space = bench.workspace
        if not space.runs.is_dir():
            w.hint("Nothing was trained here yet.", "/train", "Train first")
            return
        found, message = await w.attempt(lambda: list_runs(space.runs, sort="date"))
        if found is None:
            w.problem(message)
            return
        if not found.rows:
            w.hint("Nothing was trained here yet.", "/train", "Train first")
            return
        Runs(bench, found).build()


class Runs:
    """The list, with boxes to choose which to compare."""

    def __init__(self, bench: Bench, found: RunTable) -> None:
        self.bench, self.found = bench, found
        self.chosen: list[str] = []

    def build(self) -> None:
        for row in self.found.rows:
            self._row(row)
        with w.panel("Compare two"):
            w.text(
                "p",
                "Tick two runs that were judged on the same test images. The difference is "
                "measured image by image (paired), so hard images cancel out. To train on the "
                "split of another run, choose it in Train, More settings.",
            )
            with w.element("div", "line"):
                self.button = w.button("Compare", self.compare, "primary")
            self.place = w.element("div").props('aria-live="polite"')
            self.command = w.command_box("scanwise runs compare RUN RUN")
            self.button.set_enabled(False)
        w.command_box("scanwise runs list runs --sort date")

    def _row(self, row: RunRow) -> None:
        name = self.bench.workspace.name_of(row.path)
        with w.panel("", "run"):
            with w.element("div", "line end").style("margin:0"):
                box = ui.checkbox(name)
                box.on_value_change(lambda event: self.choose(name, event.value))
                with w.element("div", "line").style("margin:0"):
                    w.button("Show its results", lambda: self.show(name), "tiny")
                    if row.state == "finished":
                        report = self.bench.file_url(row.path / "report.html")
                        w.link("Report", report, "tiny", new_tab=True)
            w.text("p", self._words(row))

    def _words(self, row: RunRow) -> str:
        made = f"{row.model or '?'} on {row.data or '?'}, {row.date[:16].replace('T', ' ')} UTC"
        if row.state != "finished":
            return f"{made}. {row.state.capitalize()}: {row.reason}."
        test = "test not opened"
        if row.test is not None:
            test = f"test {row.test} (n = {row.n_test:,}; {looks_text(row.test_looks)})"
        return f"{made}. Accuracy [95 %]: {test}; validation {row.val} (n = {row.n_val:,})."

    def choose(self, name: str, on: bool) -> None:
        self.chosen = [each for each in self.chosen if each != name] + [name] * on
        self.button.set_enabled(len(self.chosen) == 2)
        w.set_words(self.command, "scanwise runs compare " + " ".join(self.chosen or ["RUN RUN"]))

    def show(self, name: str) -> None:
        self.bench.workspace.change(run=name)
        ui.navigate.to("/results")

    async def compare(self) -> None:
        paths = [Path(name) for name in self.chosen]  # the server runs in the workspace
        found, message = await w.attempt(compare_runs, paths)
        self.place.clear()
        with self.place:
            if found is None:
                w.problem(message)
            else:
                _comparison(found)


def _comparison(found: RunComparison) -> None:
    for difference in found.differences:
        for split, comparison in difference.comparisons.items():
            words = f"{difference.run} beside {found.names[0]}, {split}: {comparison.short()}."
            w.text("p", words)
    w.text("pre", found.text(), "log").props('tabindex="0" aria-label="Comparison"')
