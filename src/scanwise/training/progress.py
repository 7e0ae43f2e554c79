"""What a training says while it runs: one line an epoch, and a live bar on a terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from scanwise.training.history import EpochRecord

if TYPE_CHECKING:
    from torch import Tensor

REDRAW_S = 0.1

GLOSSARY = """\
  23/23          batches done of all batches in an epoch (one pass over the training images)
  14s            time of the epoch, validation included
  loss           how wrong the probabilities were on training images; lower is better
  accuracy       share of training images whose class was right, while still learning
  val_loss       loss on validation images, which the network does not learn from
  val_accuracy   share of validation images whose class was right
  lr             learning rate: how far each step moves the weights
  14s/epoch      the same time again
  594ms/step     that time divided by the batches
  ETA            time left if no epoch is saved by early stopping"""


def epoch_line(record: EpochRecord, steps: int) -> str:
    """The epoch in the words of the training guide, in their order.

    >>> print(epoch_line(EpochRecord(5, 0.2082, 0.915, 0.1089, 0.9535, 1e-4, 13.66, 594, 25), 23))
    23/23 - 14s - loss: 0.2082 - accuracy: 0.9150 - val_loss: 0.1089 - val_accuracy: 0.9535 \
- lr: 1.0000e-04 - 14s/epoch - 594ms/step
    """
    return (
        f"{steps}/{steps} - {record.seconds:.0f}s"
        f" - loss: {_number(record.loss)} - accuracy: {record.accuracy:.4f}"
        f" - val_loss: {_number(record.val_loss)} - val_accuracy: {record.val_accuracy:.4f}"
        f" - lr: {record.lr:.4e} - {record.seconds:.0f}s/epoch - {record.ms_per_step:.0f}ms/step"
    )


def _number(value: float) -> str:
    """Four decimals; four significant digits where those would vanish."""
    return f"{value:.4e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def duration(seconds: float) -> str:
    """ "45s", "2m 20s", "1h 05m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


class Reporter:
    """Writes to a stream and to log.txt, where there are such; draws a bar on a terminal.

    Use it as a context manager: the bar is taken away at the end, also after an error.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        *,
        stream: TextIO | None = None,
        log: Path | None = None,
        explain: bool = False,
    ) -> None:
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._stream = stream
        self._log = log
        self._explain = explain
        self._durations: list[float] = []
        self._drawn = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Reporter:
        if self._stream is not None and self._stream.isatty():
            self._bar = Progress(
                TextColumn("Epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("{task.fields[step]}/{task.fields[steps]} - loss: {task.fields[loss]}"),
                TextColumn("- ETA"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                auto_refresh=False,  # no second thread beside the training's
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=self._epochs * self._steps,
                epoch=0, epochs=self._epochs, step=0, steps=self._steps, loss="",
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One or more whole lines, above the bar and in the log."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._stream is not None:
            self._stream.write(text + "\n")
            self._stream.flush()
        if self._log is not None:
            with self._log.open("a", encoding="utf-8", newline="\n") as log:
                log.write(text + "\n")

    def start_epoch(self, epoch: int) -> None:
        """Say "Epoch 5/15", from the second epoch on with the time left."""
        left = ""
        if self._durations:
            mean = sum(self._durations) / len(self._durations)
            left = f" - ETA: {duration(mean * (self._epochs - epoch + 1))}"
        self.say(f"Epoch {epoch}/{self._epochs}{left}")

    def step(self, epoch: int, step: int, loss: Tensor, images: int) -> None:
        """Move the bar, ten times a second at most: reading the loss makes a GPU wait.

        Args:
            epoch: Epoch from 1.
            step: Steps done in it.
            loss: Summed over the step's images.
            images: How many those were.
        """
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        self._bar.update(
            self._task,
            completed=(epoch - 1) * self._steps + step,
            epoch=epoch,
            step=step,
            loss=f"{loss.item() / images:.4f}",
            refresh=True,
        )

    def end_epoch(self, record: EpochRecord) -> None:
        """Print the epoch's line; after the first, what its words mean if that was asked for."""
        self._durations.append(record.seconds)
        self.say(epoch_line(record, self._steps))
        if self._explain:
            self._explain = False
            self.say(GLOSSARY)
