"""Step 3: train, and watch."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from scanwise.app import jobs
from scanwise.app import widgets as w
from scanwise.app.curves import curves_svg
from scanwise.app.plans import (
    FIRST,
    PRESETS,
    WORDS,
    clean_settings,
    plan_rows,
    proposals,
    train_words,
)
from scanwise.app.progress import Progress, read_json
from scanwise.app.widgets import Bench
from scanwise.app.workspace import data_name
from scanwise.core.errors import ScanwiseError
from scanwise.report.pages import seconds_text

LEAD = (
    "scanwise chooses every setting and says why. Press Start; the rest is for those who want to "
    "change something. The training goes on when you close this page."
)
LEGEND = (
    '<p class="legend"><span><i></i>images it learns from (train)</span>'
    '<span><i class="two"></i>images it only checks itself with (val)</span></p>'
)


async def build(bench: Bench) -> None:
    with w.frame(bench, "/train", "Train", LEAD):
        state = bench.workspace.read()
        if not state.data:
            w.hint("There are no images yet.", "/data", "Choose some first")
            return
        Train(bench).build()


class Train:
    """Settings of the next training, and the one that runs or ran last."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.space = bench, bench.workspace
        state = self.space.read()
        self.data = state.data
        self.settings: dict[str, Any] = dict(state.settings)
        self.facts = (
            read_json(self.space.place(state.check) / "dataset.json") if state.check else {}
        )
        self.seen: Any = None
        self.listed: list[jobs.Job] = []

    def build(self) -> None:
        self.live = w.element("div")
        self.others = w.element("div")
        self.form = w.element("div")
        self._form()
        self.look()
        ui.timer(1.0, self.look)

    # --- settings ------------------------------------------------------------------------------

    def _form(self) -> None:
        with self.form, w.panel("Settings"):
            if not self.facts:
                w.hint("The images were not checked yet; training checks them too, but", "/check",
                       "looking at the check first is wise")  # fmt: skip
            with w.element("div", "line"):
                self._select("preset", "How to train (preset)", PRESETS)
                self._number("epochs", "Passes over the images (epochs)")
                self._input("time_limit", "Most time, such as 10m")
            for proposal in proposals(self.facts):
                with w.element("div", "warnbox"):
                    box = ui.checkbox(
                        proposal.question, value=bool(self.settings.get(proposal.setting))
                    )
                    box.on_value_change(
                        lambda event, one=proposal: self.set(
                            one.setting, one.value if event.value else None
                        )
                    )
                    w.text("p", proposal.evidence, "small muted")
            with ui.expansion("More settings").classes("w-full"), w.element("div", "line"):
                self._input("model", "Network (model), such as resnet18")
                self._number("batch_size", "Images at once (batch size)")
                self._input("lr", "Learning rate")
                self._number("size", "Side in pixels (size)")
                self._number("seed", "Seed")
                self._select("splits", "Split", self._splits())
            self.plan = w.element("div")
            with w.element("div", "line"):
                self.starter = w.button("Start training", self.start, "primary")
            self.command = w.command_box("")
        self._show_plan()

    def _splits(self) -> dict[str, str]:
        """A new split, or that of an earlier run, so that the two can be compared."""
        found = {f"{name}/splits.csv": f"that of {name}" for name in self.space.models()}
        kept = str(self.settings.get("splits") or "")
        return {"": "a new one", **({kept: kept} if kept else {}), **found}

    def _select(self, name: str, words: str, options: dict[str, str]) -> None:
        value = self.settings.get(name) or ""
        field = ui.select(options, label=words, value=value)
        field.props("outlined dense options-dense").classes("grow").style("flex-basis:340px")
        field.on_value_change(lambda event: self.set(name, event.value))

    def _number(self, name: str, words: str) -> None:
        field = ui.number(words, value=self.settings.get(name), min=0, precision=0)
        field.props("outlined dense").classes("grow").style("flex-basis:150px")
        field.on_value_change(
            lambda event: self.set(name, None if event.value is None else int(event.value))
        )

    def _input(self, name: str, words: str) -> None:
        field = ui.input(words, value=str(self.settings.get(name) or ""))
        field.props("outlined dense").classes("grow").style("flex-basis:150px")
        field.on_value_change(lambda event: self.set(name, str(event.value or "").strip()))

    def set(self, name: str, value: Any) -> None:
        """Keep a setting, on disk too, and show what follows from it."""
        self.settings[name] = value
        self.space.change(settings={k: v for k, v in self.settings.items() if v not in (None, "")})
        self._show_plan()

    def _show_plan(self) -> None:
        self.plan.clear()
        with self.plan:
            try:
                said = clean_settings(self.settings)
                line, decisions = plan_rows(said, self.facts)
            except ScanwiseError as error:
                w.problem(str(error), "These settings can't be used")
                return
            w.set_words(self.command, self._command(said, "runs/NAME"))
            if decisions:
                w.text("p", f"{line[0].upper()}{line[1:]}.", "small muted gap")
                rows = {d.setting: d for d in decisions}
                shown = [rows[name] for name in FIRST if name in rows]
                rest = [d for d in decisions if d.setting not in FIRST]
                _plan_table(shown)
                with ui.expansion(f"All {len(decisions)} settings").classes("w-full"):
                    _plan_table(rest)

    def _words(self, said: dict[str, Any], output: str) -> list[str]:
        return train_words(self.space.source_name(self.data), said, output)

    def _command(self, said: dict[str, Any], output: str) -> str:
        return jobs.command_text(self._words(said, output))

    # --- start, stop, resume -------------------------------------------------------------------

    def start(self) -> None:
        try:
            said = clean_settings(self.settings)
            output = self.space.new_folder("runs", data_name(self.data))
            taken = {job.output for job in jobs.read_jobs(self.space.jobs)}
            while output in taken:
                output = output[:-3] + f"{int(output[-3:]) + 1:03d}"
            words = self._words(said, output)
            jobs.start_training(self.space.jobs, words, output, self.space.root)
        except ScanwiseError as error:
            w.say(str(error))
            self.look()
            return
        self.space.change(run=output)
        self.look()

    async def stop(self, job: jobs.Job) -> None:
        w.say("Stopping after what is being done now …")
        _, message = await w.attempt(jobs.stop, job)
        if message:
            w.say(message)
        self.look()

    def resume(self, run_name: str) -> None:
        words = ["train", "--resume", run_name]
        try:
            jobs.start_training(self.space.jobs, words, run_name, self.space.root)
        except ScanwiseError as error:
            w.say(str(error))
        self.look()

    # --- what is going on ----------------------------------------------------------------------

    def look(self) -> None:
        run_name = self.space.read().run
        progress = w.live(self.bench, run_name)
        live = jobs.running(self.space.jobs)
        self.starter.set_enabled(not any(job.kind == "train" for job in live))
        self._list([job for job in live if job.output != run_name])
        if self.seen == (run_name, progress):
            return
        self.seen = (run_name, progress)
        job = jobs.newest(self.space.jobs, "train", run_name) if run_name else None
        self._show(run_name, progress, job)

    def _list(self, running: list[jobs.Job]) -> None:
        """What else runs in this workspace, each with a button that stops it."""
        if running == self.listed:
            return
        self.listed = running
        self.others.clear()
        if running:
            with self.others, w.panel("Running as well"):
                for job in running:
                    with w.element("div", "line"):
                        w.text("span", job.command, "small")
                        stopper = w.button("Stop", lambda job=job: self.stop(job), "tiny")
                        stopper.props(f'aria-label="Stop {job.name}"')

    def _show(self, run_name: str, progress: Progress, job: jobs.Job | None) -> None:
        """The panel is made once for each stage; within a stage only words change."""
        key = (run_name, progress.stage)
        if getattr(self, "key", None) != key:
            self.key = key
            self.live.clear()
            with self.live:
                if progress.stage != "none":
                    self._live_panel(run_name, progress, job)
        if progress.stage == "none":
            return
        w.set_words(self.headline, progress.words)
        eta = "" if progress.eta_s is None else f"About {seconds_text(progress.eta_s)} left (ETA)."
        w.set_words(self.eta, eta if progress.stage == "learning" else "")
        w.set_words(self.line, progress.line or "The first epoch is not done yet.")
        share = len(progress.history) / progress.epochs if progress.epochs else 0.0
        self.bar.set_value(1.0 if progress.stage in ("finished", "judging") else share)
        self._curves(progress)

    def _live_panel(self, run_name: str, progress: Progress, job: jobs.Job | None) -> None:
        level = {"finished": "ok", "failed": "bad", "stopped": "unsure"}.get(progress.stage, "")
        with w.panel("", f"hero {level}"):
            w.text("p", run_name, "muted small")
            self.headline = w.text("p", progress.words, "headline").props('role="status"')
            self.eta = w.text("p", "", "muted")
            if progress.problem:
                w.problem(progress.problem)
            self.bar = ui.linear_progress(0.0, show_value=False, color=None).props(
                'size="10px" aria-label="Share of the epochs done"'
            )
            self.line = w.text("p", "", "epoch").props('aria-label="Epoch line"')
            with w.element("div", "line"):
                self._buttons(run_name, progress, job)
            with w.element("div", "split gap"):
                for name in ("Loss", "Accuracy"):
                    with w.element("div"):
                        better = "lower" if name == "Loss" else "higher"
                        w.text("h3", f"{name} ({better} is better)")
                        setattr(self, name, w.html(""))
            w.html(LEGEND)
            if job is not None:
                with ui.expansion("What the training prints").classes("w-full"):
                    self.log = w.text("pre", jobs.log_text(self.space.jobs, job), "log")
                    self.log.props('tabindex="0"')
                w.command_box(jobs.command_anew(self.space.jobs, job))

    def _buttons(self, run_name: str, progress: Progress, job: jobs.Job | None) -> None:
        if progress.is_live and job is not None:
            w.button("Stop", lambda: self.stop(job))
        if progress.can_resume:
            w.button("Resume", lambda: self.resume(run_name), "primary")
            w.text("span", f"scanwise train --resume {run_name}", "muted small")
        if progress.stage == "finished":
            w.link("Next: results", "/results", "primary")

    def _curves(self, progress: Progress) -> None:
        rows = progress.history
        for name, mine, other, top in (
            ("Loss", [r.loss for r in rows], [r.val_loss for r in rows], None),
            ("Accuracy", [r.accuracy for r in rows], [r.val_accuracy for r in rows], 1.0),
        ):
            lines = [("train", mine), ("val", other)]
            getattr(self, name).content = curves_svg(name, lines, progress.epochs, top=top)
        job = jobs.newest(self.space.jobs, "train", self.space.read().run)
        if job is not None and hasattr(self, "log") and not self.log.is_deleted:
            w.set_words(self.log, jobs.log_text(self.space.jobs, job))


def _plan_table(decisions: Any) -> None:
    rows = [(WORDS.get(d.setting, d.setting), str(d.value), d.reason) for d in decisions]
    w.table(("Setting", "Value", "Why"), rows)
