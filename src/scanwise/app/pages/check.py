"""Step 2: is there trouble in the images?"""

from __future__ import annotations

from typing import Any

from nicegui import ui

from scanwise.app import jobs
from scanwise.app import widgets as w
from scanwise.app.findings import SEVERITY_WORDS, class_rows, read_findings, title_of
from scanwise.app.plans import check_words
from scanwise.app.progress import read_json
from scanwise.app.widgets import Bench
from scanwise.app.workspace import data_name
from scanwise.core.types import Finding
from scanwise.report.check_page import verdict_of

LEAD = (
    "Before anything is trained, scanwise looks for what would make the result wrong: unreadable "
    "files, copies, one patient in training and test, hints that give the answer away."
)
PICTURES = {
    "samples.png": "Some pictures of each class",
    "class_distribution.png": "How many pictures each class has",
    "intensity_per_class.png": "How bright the pictures of each class are",
    "mean_per_class.png": "The average picture of each class",
}


async def build(bench: Bench) -> None:
    with w.frame(bench, "/check", "Are the images fit for training?", LEAD):
        state = bench.workspace.read()
        if not state.data:
            w.hint("There are no images yet.", "/data", "Choose some first")
            return
        Check(bench).build()


class Check:
    """The newest check of the data: waiting, running, or its findings."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.space = bench, bench.workspace
        self.seen = ""
        self.log: Any = None

    def build(self) -> None:
        self.place = w.element("div")
        ui.timer(0.7, self.look)

    def _job(self) -> jobs.Job | None:
        output = self.space.read().check
        return jobs.newest(self.space.jobs, "check", output) if output else None

    def look(self) -> None:
        """Show the state anew where it changed."""
        state, job = self.space.read(), self._job()
        if jobs.is_running(job) and job is not None:
            self._once(f"running {job.name}", lambda: self._running(job))
            if self.log is not None:
                w.set_words(self.log, jobs.log_text(self.space.jobs, job) or "Reading images …")
        elif state.check and (self.space.place(state.check) / "dataset.json").is_file():
            self._once(f"done {state.check}", lambda: self._found(state.check))
        elif job is not None:
            message = jobs.error_text(jobs.log_text(self.space.jobs, job))
            self._once(f"failed {job.name}", lambda: self._failed(message))
        else:
            self._once("none", self._none)

    def _once(self, key: str, show: Any) -> None:
        if self.seen == key:
            return
        self.seen = key
        self.place.clear()
        with self.place:
            show()

    def start(self) -> None:
        data = self.space.read().data
        output = self.space.new_folder("checks", data_name(data))
        while any(job.output == output for job in jobs.running(self.space.jobs)):
            output = output[:-3] + f"{int(output[-3:]) + 1:03d}"
        words = check_words(self.space.source_name(data), output)
        jobs.start(self.space.jobs, "check", words, output, self.space.root)
        self.space.change(check=output)
        self.look()

    def _none(self) -> None:
        data = self.space.read().data
        with w.panel(f"Check {data_name(data)}"):
            w.text("p", "It takes seconds to a few minutes. Nothing is changed.")
            with w.element("div", "line"):
                w.button("Check the images", self.start, "primary")
            w.command_box(
                jobs.command_text(check_words(self.space.source_name(data), "checks/NAME"))
            )

    def _running(self, job: jobs.Job) -> None:
        with w.panel("Checking …"):
            with w.element("div", "line").props('role="status"'):
                ui.spinner(size="28px", color=None)
                w.text("p", "Looking at every image. You may leave this page; it goes on.")
            self.log = w.text("pre", "Reading images …", "log").props('tabindex="0"')
            with w.element("div", "line"):
                w.button("Stop", lambda: self.stop(job))
            w.command_box(jobs.command_anew(self.space.jobs, job))

    async def stop(self, job: jobs.Job) -> None:
        await w.attempt(jobs.stop, job)
        self.space.change(check="")

    def _failed(self, message: str) -> None:
        w.problem(message or "the check was stopped before it was done.")
        self._none()

    def _found(self, check: str) -> None:
        folder = self.space.place(check)
        data, findings = read_json(folder / "dataset.json"), read_findings(folder)
        level, headline = verdict_of(findings)
        with w.panel("", f"hero {level}"):
            w.text("p", headline, "headline").props('role="status"')
            w.text("p", f"{data.get('n', 0):,} images, split for training, validation and test.")
            with w.element("div", "line"):
                w.link("Next: train", "/train", "primary" if level != "bad" else "")
                page = self.bench.file_url(folder / "check.html")
                w.link("Open the whole check page", page, new_tab=True)
                w.button("Check again", self.start)
            job = self._job()
            if job is not None:
                w.command_box(jobs.command_anew(self.space.jobs, job))
        with w.panel("What was found"):
            if not findings:
                w.text("p", "The checks found nothing to report.")
            for finding in findings:
                _finding(finding)
        with w.panel("Classes and split"):
            head = ("Class", "to learn from (train)", "to choose by (val)", "to judge by (test)")
            w.table(head, [(name, *(f"{n:,}" for n in row)) for name, *row in class_rows(data)])
        self._pictures(folder)

    def _pictures(self, folder: Any) -> None:
        with w.panel("Pictures"), w.element("div", "pics"):
            for name, words in PICTURES.items():
                if (folder / name).is_file():
                    with w.element("figure").style("margin:0"):
                        w.html(
                            f'<img src="{self.bench.file_url(folder / name)}" alt="{words}">'
                            f'<figcaption class="muted small">{words}</figcaption>'
                        )


def _finding(finding: Finding) -> None:
    with w.element("article", f"finding {finding.severity}"):
        with w.element("div"):
            w.text("span", SEVERITY_WORDS[finding.severity], "tag")
            w.text("strong", title_of(finding))
            w.text("span", f" ({finding.code})", "muted small")
        w.text("p", finding.evidence)
        if finding.advice:
            w.text("p", finding.advice, "advice")
        if finding.command:
            w.command_box(finding.command, "What may help, in a terminal or in the next step:")
