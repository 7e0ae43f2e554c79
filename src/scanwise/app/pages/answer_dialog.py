"""A closer look at one answer: the picture, every probability, and where the evidence lies."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from nicegui import ui

from scanwise.app import widgets as w
from scanwise.app.answers import AnswerSet, confidence
from scanwise.app.explaining import explain_file
from scanwise.app.widgets import Bench
from scanwise.deploy.answers import Answer


class AnswerDialog:
    """Opened from a gallery; walks through what is shown there.

    Args:
        bench: Of the page.
        found: The answers.
        shown: Those of them that the gallery shows, in its order.
        row: The one to open, one of `shown`.
    """

    def __init__(self, bench: Bench, found: AnswerSet, shown: Sequence[int], row: int) -> None:
        self.bench, self.found, self.shown, self.row = bench, found, shown, row

    def open(self) -> None:
        with ui.dialog().props('aria-label="One picture"') as self.dialog:
            self.card = ui.card().classes("dialog")
        self.dialog.on("hide", self.dialog.delete)
        self._fill()
        self.dialog.open()

    def _fill(self) -> None:
        answer = self.found.answers[self.row]
        self.card.clear()
        with self.card:
            w.text("h2", Path(answer.sample).name)
            if not answer.ok:
                w.problem(answer.reason, "This file can't be read")
            else:
                self._picture(answer)
            with w.element("div", "line end"):
                with w.element("div", "line").style("margin:0"):
                    w.button("Previous", lambda: self.step(-1))
                    w.button("Next", lambda: self.step(1))
                w.button("Close", self.dialog.close, "primary")

    def step(self, by: int) -> None:
        self.row = self.shown[(self.shown.index(self.row) + by) % len(self.shown)]
        self._fill()

    def _picture(self, answer: Answer) -> None:
        path = self._path()
        source = self.bench.thumb(self.bench.thumbnails.add(path), 640)
        name = escape(path.name)
        w.html(f'<img class="big" src="{source}" alt="{name}">')
        w.html(probabilities_html(answer), "probs").props(
            'role="group" aria-label="Probability of each class"'
        )
        for words in what_it_means(answer):
            w.text("p", words)
        self.map = w.element("div").props('aria-live="polite"')
        with self.map:
            w.button("Show where it looked (explanation)", self.explain)
        model = self.found.about.get("model")
        w.command_box(f"scanwise explain {model} {answer.sample}")

    async def explain(self) -> None:
        """The map that `scanwise explain` draws."""
        self.map.clear()
        with self.map:
            w.text("p", "Looking for the evidence …", "muted")
        found, message = await w.attempt(self._map)
        if self.map.is_deleted:
            return
        self.map.clear()
        with self.map:
            if found is None:
                w.problem(message)
                return
            png, words = found
            data = base64.b64encode(png).decode()
            w.html(
                f'<img class="map" src="data:image/png;base64,{data}" '
                'alt="The picture beside a map of the evidence">'
            )
            w.text(
                "p",
                f"{words} Bright places spoke for this class. A map of one picture is not tested; "
                "scanwise explain RUN tests maps on validation images.",
                "muted small",
            )

    def _map(self) -> tuple[bytes, str]:
        model = self.bench.workspace.place(str(self.found.about.get("model") or ""))
        bundle, _ = self.bench.models.open(model)
        return explain_file(bundle, self._path())

    def _path(self) -> Path:
        return self.bench.workspace.place(self.found.answers[self.row].sample)


def probabilities_html(answer: Answer) -> str:
    """A row for each class, the most probable first."""
    order = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    return "".join(
        f"<span>{escape(name)}</span><span class='bar' aria-hidden='true'>"
        f"<span style='width:{100 * value:.2f}%'></span></span>"
        f"<span data-class='{escape(name)}'>{value:.6f}</span>"
        for name, value in order
    )


def what_it_means(answer: Answer) -> list[str]:
    """The rest of the answer in plain words."""
    _, how = confidence(answer)
    said: list[Any] = [f"Most probable: {answer.predicted or 'no class'} ({how})."]
    if answer.in_distribution is False:
        said.append(
            "This picture is unlike the training images (unknown input): do not trust the "
            "probabilities; the model abstains."
        )
    if answer.above_threshold is not None:
        reached = ", ".join(answer.above_threshold) or "no class"
        said.append(f"Classes that reach their threshold: {reached}.")
    if answer.prediction_set is not None:
        names = ", ".join(answer.prediction_set) or "none is likely enough"
        said.append(f"Classes that can't be ruled out (prediction set): {names}.")
    if answer.unknown_score is not None:
        said.append(f"Strangeness (unknown-input score): {answer.unknown_score:.3f}.")
    return [str(each) for each in said]
