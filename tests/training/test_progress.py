"""The epoch line of the training guide, plain on pipes, with a bar on terminals."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch

from scanwise.training.history import EpochRecord
from scanwise.training.progress import Reporter, duration, epoch_line

# The guide's example: 23 steps, 14 s, 594 ms a step.
RECORD = EpochRecord(5, 0.2082, 0.9150, 0.1089, 0.9535, 1e-4, 13.66, 594.0, 21.0)
LINE = (
    "23/23 - 14s - loss: 0.2082 - accuracy: 0.9150 - val_loss: 0.1089 - val_accuracy: 0.9535"
    " - lr: 1.0000e-04 - 14s/epoch - 594ms/step"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_two_epochs(reporter: Reporter) -> None:
    with reporter:
        for epoch in (1, 2):
            reporter.start_epoch(epoch)
            reporter.step(epoch, 1, torch.tensor(8.0), 16)
            reporter.end_epoch(RECORD)


def test_the_line_is_the_guides() -> None:
    assert epoch_line(RECORD, 23) == LINE


def test_plain_lines_without_control_codes_on_a_pipe_and_in_the_log(tmp_path: Path) -> None:
    stream, log = io.StringIO(), tmp_path / "log.txt"
    run_two_epochs(Reporter(15, 23, stream=stream, log=log))
    lines = stream.getvalue().splitlines()
    assert lines == ["Epoch 1/15", LINE, "Epoch 2/15 - ETA: 3m 11s", LINE]
    assert log.read_text() == stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())


def test_a_terminal_gets_a_bar_with_eta_and_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, log = Terminal(), tmp_path / "log.txt"
    run_two_epochs(Reporter(15, 23, stream=stream, log=log))
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "ETA" in shown
    assert shown.count(LINE) == 2
    assert "\x1b" not in log.read_text()


def test_explain_glosses_each_word_of_the_line_once() -> None:
    stream = io.StringIO()
    run_two_epochs(Reporter(15, 23, stream=stream, explain=True))
    said = stream.getvalue()
    for word in [*re.findall(r"(\w+):", LINE), "s/epoch", "ms/step", "ETA"]:
        assert re.search(rf"^  \S*{word}  ", said, re.MULTILINE), word
    assert said.count("lower is better") == 1


def test_silence() -> None:
    run_two_epochs(Reporter(15, 23))


@pytest.mark.parametrize(("seconds", "words"), [(44.6, "45s"), (140, "2m 20s"), (3900, "1h 05m")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
