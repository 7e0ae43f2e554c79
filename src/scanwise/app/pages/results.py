"""Step 4: how good is it, where is it wrong, and at which threshold is it used?"""

from __future__ import annotations

import subprocess
import sys
from html import escape
from typing import Any

from nicegui import ui

from scanwise.app import jobs
from scanwise.app import widgets as w
from scanwise.app.progress import STAGE_WORDS, read_json
from scanwise.app.widgets import Bench
from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.report.verdict import SPLIT_WORDS, as_interval

LEAD = (
    "What the model can do, measured on images that it never saw while learning, with the range in "
    "which the truth probably lies (95 % interval)."
)
CARDS = (
    ("accuracy", "Right answers (accuracy)"),
    ("balanced_accuracy", "Right answers, each class counted alike (balanced accuracy)"),
    ("auroc_macro", "How well it tells classes apart (AUROC, macro)"),
    ("ece", "How far its probabilities are off (calibration error)"),
)
LEVELS = {"ok": "ok", "val_only": "unsure", "too_few": "unsure", "unmeasured": "unsure"}
RULES = {
    "--sensitivity": "Find at least this share of the class (sensitivity)",
    "--specificity": "Clear at least this share of all others (specificity)",
    "--youden": "Best balance of both (Youden)",
}
THRESHOLD_TIME_S = 300


async def build(bench: Bench) -> None:
    with w.frame(bench, "/results", "How good is it?", LEAD):
        state = bench.workspace.read()
        if not state.run:
            w.hint("Nothing was trained yet.", "/train", "Train first")
            return
        progress = w.live(bench, state.run)
        if progress.stage != "finished":
            if progress.problem:
                w.problem(progress.problem, f"{state.run} could not be trained")
            w.hint(f"{state.run}: {STAGE_WORDS[progress.stage]}", "/train", "Look at the training")
            return
        Results(bench, state.run).build()


class Results:
    """One finished run."""

    def __init__(self, bench: Bench, run_name: str) -> None:
        self.bench, self.name = bench, run_name
        self.run = bench.workspace.place(run_name)
        self.metrics = read_json(self.run / "metrics.json")

    def build(self) -> None:
        report = read_json(self.run / "report.json")
        verdict = report.get("verdict") or {}
        level = LEVELS.get(str(verdict.get("level")), "bad")
        with w.panel("", f"hero {level}"):
            w.text("p", self.name, "muted small")
            w.text("p", str(verdict.get("headline") or "Not measured"), "headline")
            w.text("p", str(verdict.get("sentence") or ""))
            with w.element("div", "line"):
                w.link("Next: use it", "/use", "primary")
                self._open("Open the whole report", "report.html")
                self._open("Open its mistakes", "errors/index.html")
        self._cards()
        self._thresholds()
        self._frame("The report", "report.html")
        self._frame("Mistakes, beside the nearest training images", "errors/index.html")
        w.command_box(f"scanwise report {self.name}", "To write the report anew, in a terminal:")

    def _open(self, words: str, name: str) -> None:
        if (self.run / name).is_file():
            w.link(words, self.bench.file_url(self.run / name), new_tab=True)

    def _frame(self, title: str, name: str) -> None:
        if (self.run / name).is_file():
            with w.panel(title):
                address = self.bench.file_url(self.run / name)
                w.html(
                    f'<iframe class="embed" src="{address}" title="{escape(title)}" '
                    'loading="lazy"></iframe>'
                )

    def _cards(self) -> None:
        splits = self.metrics.get("splits") or {}
        split = "test" if "test" in splits else "val"
        part = splits.get(split) or {}
        with w.element("ul", "cards"):
            for key, words in CARDS:
                if key in part:
                    _card(words, as_interval(part[key]), int(part.get("n") or 0), split)

    # --- thresholds ----------------------------------------------------------------------------

    def _thresholds(self) -> None:
        names = (self.metrics.get("dataset") or {}).get("class_names") or []
        if not names:
            return
        with w.panel("When should it raise the alarm? (threshold)"):
            w.text(
                "p",
                "By itself the model names the most probable class. Where missing one class is "
                "worse than a false alarm, say what share of it must be found. The bar is chosen "
                "on validation images, and you see what it achieves on test.",
            )
            with w.element("div", "line"):
                name = ui.select(names, label="Class", value=names[-1]).props("outlined dense")
                name.classes("grow")
                rule = ui.select(RULES, label="What you want", value="--sensitivity")
                rule.props("outlined dense").classes("grow").style("flex-basis:330px")
                share = ui.number("Share, such as 0.95", value=0.95, min=0, max=1, step=0.01)
                share.props("outlined dense")
                w.button("Choose the threshold", lambda: apply())
            shown = w.element("div").props('aria-live="polite"')
            command = w.command_box("")
        self._stored(shown)

        def words() -> list[str]:
            value = [] if rule.value == "--youden" else [f"{share.value:g}"]
            return ["thresholds", self.name, "--class", str(name.value), rule.value, *value]

        def tell() -> None:
            if share.value is not None:
                w.set_words(command, jobs.command_text(words()))

        async def apply() -> None:
            shown.clear()
            with shown:
                w.text("p", "Choosing …", "muted")
            said, message = await w.attempt(self._run, words())
            shown.clear()
            with shown:
                if message:
                    w.problem(message)
                else:
                    w.text("pre", said or "", "log").props('tabindex="0"')

        for field in (name, rule, share):
            field.on_value_change(tell)
        tell()

    def _stored(self, shown: Any) -> None:
        config = read_json(self.run / "bundle" / "config.json")
        stored = config.get("thresholds") or {}
        if stored:
            with shown:
                said = ", ".join(f"'{name}' from {value:.3g} on" for name, value in stored.items())
                w.text("p", f"Stored: {said}.")

    def _run(self, words: list[str]) -> str:
        """Run a verb that takes seconds; what it prints.

        Raises:
            DataError: With its own message.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-m", "scanwise", *words],
            cwd=self.bench.workspace.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=THRESHOLD_TIME_S,
            check=False,
        )
        if done.returncode:
            raise DataError(jobs.error_text(done.stderr) or done.stderr.strip())
        return done.stdout.strip()


def _card(words: str, value: Interval, n: int, split: str) -> None:
    shown = "–" if value.value is None else f"{value.value:.3f}"
    if value.low is not None and value.high is not None:
        interval = f"95 % between {value.low:.3f} and {value.high:.3f}"
    else:
        interval = value.reason or "not measured"
    w.html(
        f'<div class="k">{escape(words)}</div><div class="v">{shown}</div>'
        f'<div class="i">{escape(interval)}</div>'
        f'<div class="s">{n:,} {SPLIT_WORDS[split]} images</div>',
        "card",
        "li",
    )
