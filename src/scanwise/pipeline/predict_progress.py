"""How far a prediction is: a bar with rate and time left, or without a terminal some lines."""

from __future__ import annotations

import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from scanwise.training.progress import duration

LINE_S = 30.0  # between lines where there is no terminal


class PredictProgress:
    """Use it as a context manager: the bar is taken away at the end, also after an error."""

    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        """
        Args:
            total: Images of the job.
            done: Of them by an earlier process.
            stream: Where to draw: stderr.
        """
        self._total, self._done, self._before = total, done, done
        self._stream = stream
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.description}"),
                console=Console(file=self._stream),
                auto_refresh=False,
                transient=True,
            )
            self._task = self._bar.add_task(self.text(), total=self._total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A whole line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def step(self, images: int) -> None:
        """So many more are done."""
        self._done += images
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self._done, description=self.text(), refresh=True
            )
        elif time.monotonic() - self._said > LINE_S:
            self._said = time.monotonic()
            self.say(self.text())

    def text(self) -> str:
        """ "12,000/100,000 - 812 images/s - ETA: 1m 48s"."""
        passed, made = time.monotonic() - self._began, self._done - self._before
        text = f"{self._done:,}/{self._total:,}"
        if not made or passed <= 0:
            return text
        left = (self._total - self._done) * passed / made
        return f"{text} - {made / passed:,.0f} images/s - ETA: {duration(left)}"
