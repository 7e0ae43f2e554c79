"""A CSV that is written block by block, and goes on after an interruption to the same bytes.

While it is written, OUT.part holds the blocks and OUT.part.json what they belong to and how far
they go; at the end OUT.part becomes OUT and the other file goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from scanwise.core.errors import RunError
from scanwise.core.files import csv_lines, only_one, write_json
from scanwise.deploy.fast import EngineName
from scanwise.pipeline.answer_rows import read_rows


@dataclass(frozen=True)
class Origin:
    """What a table is made of. Only the same goes on; else the parts would not fit together."""

    model: str  # SHA-256
    inputs: str  # SHA-256
    num_inputs: int
    device: str


@dataclass(frozen=True)
class Way:
    """How it is computed; what goes on does it in the same way, so that all bits are the same."""

    engine: EngineName
    block: int


class PartialTable:
    """An open table; use it as a context manager. What is written stays if an error ends it."""

    def __init__(self, output: Path, origin: Origin, *, resume: bool, force: bool) -> None:
        """Open it, new or where it was interrupted.

        Raises:
            RunError: A file in the way; nothing to go on with, or of another model or inputs.
        """
        self.output = output
        self.part = output.with_name(output.name + ".part")
        self.state = output.with_name(output.name + ".part.json")
        self.done = 0  # rows that are written
        self.way: Way | None = None  # known where it goes on
        self._bytes = 0
        self._origin = origin
        self._check_place()
        with ExitStack() as stack:
            stack.enter_context(
                only_one(
                    output.with_name(f".{output.name}.lock"),
                    f"{output} is being written by another process; wait for it, or choose another "
                    "-o.",
                )
            )
            self._check_free(resume, force)
            if resume and self.state.exists():
                self._read_state()
            else:
                self.part.unlink(missing_ok=True)
                self.state.unlink(missing_ok=True)
            self._held = stack.pop_all()

    def begin(self, way: Way, header: Sequence[str]) -> None:
        """Say how it is computed; writes the header where the table is new."""
        if self.way is None:
            self.way = way
            self.part.touch()
            self._append(csv_lines([header]), 0)

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write a block."""
        self._append(csv_lines(rows), len(rows))

    def written(self) -> Iterable[list[str]]:
        """The rows of an earlier process."""
        return read_rows(self.part) if self.done else ()

    def finish(self) -> None:
        """Put it in its place."""
        assert self.done == self._origin.num_inputs
        os.replace(self.part, self.output)
        self.state.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        with self._held:
            self._close()

    def _close(self) -> None:
        if not self.done:  # nothing that is worth going on with
            self.part.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
        elif self.part.exists():
            sys.stderr.write(f"{self.done:,} rows are kept in {self.part}; --resume goes on.\n")

    def _append(self, text: str, rows: int) -> None:
        assert self.way is not None
        data = text.encode()
        state = {"schema": 1, **asdict(self._origin), **asdict(self.way)}
        state |= {"rows": self.done + rows, "bytes": self._bytes + len(data)}
        try:
            with self.part.open("ab") as stream:
                stream.write(data)
            write_json(self.state, state)
        except OSError as error:
            raise RunError(f"can't write {self.part}: {error.strerror or error}.") from error
        self._bytes += len(data)
        self.done += rows

    def _check_place(self) -> None:
        if self.output.is_dir():
            raise RunError(f"{self.output} is a folder; name a file for -o.")
        if not self.output.absolute().parent.is_dir():
            raise RunError(f"{self.output.parent} does not exist; make it, or choose another -o.")
        if not os.access(self.output.absolute().parent, os.W_OK):
            raise RunError(f"{self.output.parent} can't be written to; choose another -o.")

    def _check_free(self, resume: bool, force: bool) -> None:
        if self.output.exists() and not self.part.exists():
            self.state.unlink(missing_ok=True)  # of a process that was killed at its very end
        if resume and self.output.exists() and not self.state.exists():
            raise RunError(
                f"{self.output} is complete: there is nothing to resume. --force predicts anew, "
                "and with --sort-into sorts what it predicts."
            )
        if resume or force:
            return
        if self.state.exists():
            raise RunError(
                f"{self.part} is an interrupted prediction; --resume goes on with it, --force "
                "begins anew."
            )
        if self.output.exists():
            raise RunError(f"{self.output} exists; choose another -o, or --force to replace it.")

    def _read_state(self) -> None:
        stated: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            stated = json.loads(self.state.read_text(encoding="utf-8"))
        try:
            origin = Origin(**{name: stated[name] for name in asdict(self._origin)})
            engine: EngineName = "onnxruntime" if stated["engine"] == "onnxruntime" else "torch"
            self.way = Way(engine, int(stated["block"]))
            self.done, self._bytes = int(stated["rows"]), int(stated["bytes"])
            whole = self.part.stat().st_size >= self._bytes
        except (KeyError, TypeError, ValueError, OSError):
            whole = False
        if not whole:
            raise RunError(f"{self.state} or {self.part.name} is damaged; --force begins anew.")
        self._compare(origin)
        os.truncate(self.part, self._bytes)  # a block that was cut off is written again

    def _compare(self, then: Origin) -> None:
        now = self._origin
        if then == now:
            return
        if then.model != now.model:
            what = "another model (its files differ)"
        elif then.num_inputs != now.num_inputs:
            what = f"{then.num_inputs:,} inputs, not {now.num_inputs:,}"
        elif then.inputs != now.inputs:
            what = "other inputs (names, sizes or times of change differ)"
        else:
            what = f"device {then.device}, not {now.device}"
        raise RunError(
            f"{self.part} was begun with {what}, so it can't go on; give what it was begun with, "
            "or --force to begin anew."
        )
