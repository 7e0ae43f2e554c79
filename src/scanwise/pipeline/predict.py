"""`scanwise predict MODEL PATHS…`: an answer to each input, written as it comes.

Threads decode while the network runs; a few blocks are held at a time, however many files there
are. A block is made of the same inputs each time, so a file that was interrupted goes on to the
same bytes.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from scanwise.core.errors import ConfigError, DataError, one_line
from scanwise.core.files import csv_lines, sha256_file
from scanwise.core.runtime import apply_threads, package_version
from scanwise.data.cache import usable_cores
from scanwise.deploy.answers import BundlePredictions
from scanwise.deploy.bundle import Bundle, Prepared, find_bundle
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.deploy.fast import FEW, SAMPLE, Choice, choose_engine, known_choice, use_engine
from scanwise.deploy.opening import open_model
from scanwise.pipeline.answer_rows import Row, header, rows_of, said
from scanwise.pipeline.find_inputs import Input, Inputs, find_inputs
from scanwise.pipeline.partial_table import Origin, PartialTable, Way
from scanwise.pipeline.predict_progress import PredictProgress
from scanwise.pipeline.predict_summary import Summary, Tally
from scanwise.pipeline.sort_into import SortPlan, check_plan, sort_files
from scanwise.prepare.rows import evaluation_batch

AHEAD = 2  # blocks that are decoded while the network is at one
TASK = 8  # images a thread decodes before it looks for more
LOOKED_AT = 512  # inputs among which readable ones are sought to choose the engine on
STDOUT = "-"


@dataclass(frozen=True)
class Job:
    """What is asked for."""

    model: Path
    given: tuple[str, ...]
    lists: tuple[str, ...] = ()
    output: str = "predictions.csv"  # or "-"
    device: str = "auto"
    batch_size: int | None = None
    resume: bool = False
    force: bool = False
    sort: SortPlan | None = None


# From a job, its inputs, an open model and a way, make the rows of each block in turn.
RowBlocks = Callable[[Job, Sequence[Input], Bundle, Way], Generator[list[Row]]]


def predict(job: Job, make_rows: RowBlocks | None = None) -> Summary:
    """Answer all inputs into `job.output`; one row each, in their order.

    Args:
        job: What is asked for.
        make_rows: Where to compute; here if None.

    Raises:
        DataError: Nothing to look at.
        RunError: No model, or a file in the way.
        IntegrityError: A damaged model.
        ConfigError: Settings that contradict each other.
        DeviceError: A device that is not here.
    """
    _check(job)
    began = time.monotonic()
    inputs = find_inputs(
        job.given, lists=job.lists, but_not="" if job.output == STDOUT else job.output
    )
    bundle = open_model(job.model, lazily=True)
    if job.sort is not None:
        check_plan(job.sort, inputs, bundle.class_names, Path(job.output))
    job = replace(job, device=_device(job.device))
    tally = Tally(bundle.class_names, bundle.config.task)
    work = _Work(job, inputs, bundle, make_rows or _rows_here, tally)
    before = 0
    if job.output == STDOUT:
        choice = work.to_stdout()
    else:
        origin = Origin(model_sha256(job.model), inputs.fingerprint(), len(inputs), job.device)
        with PartialTable(
            Path(job.output), origin, resume=job.resume, force=job.force
        ) as table:  # fmt: skip
            before = table.done
            choice = work.to_table(table)
            table.finish()
    ended = time.monotonic()
    sorted_files = None
    if job.sort is not None:
        sorted_files = sort_files(job.sort, inputs, Path(job.output), bundle)
    answered = len(inputs) - before
    given = (*job.given, *(f"@{file}" for file in job.lists))
    return Summary(
        job.model, job.output, tally, str(choice), answered, ended - began, sorted_files, given
    )


def model_sha256(path: Path) -> str:
    """What a model's files are, in one number."""
    return sha256_file(path if path.is_file() else find_bundle(path) / "SHA256SUMS")


def answer_blocks(
    bundle: Bundle, inputs: Sequence[Input], block: int, *, device: str = "cpu"
) -> Generator[BundlePredictions]:
    """Answers to inputs in their order, a block at a time; decoding runs ahead in threads."""
    with closing(_prepared_blocks(bundle, inputs, block)) as blocks:
        for start, prepared in zip(range(0, len(inputs), block), blocks, strict=True):
            names = [each.name for each in inputs[start : start + block]]
            yield bundle.predict_prepared(names, prepared, device=device)


def block_size(bundle: Bundle) -> int:
    """Images of a block: four batches of the network, so that few are waited for at the ends."""
    members = [m.bundle for m in bundle.members] if isinstance(bundle, EnsembleBundle) else [bundle]
    return 4 * min(evaluation_batch(each.config.seen_px) for each in members)


@dataclass(frozen=True)
class _Work:
    """A job whose parts are there."""

    job: Job
    inputs: Inputs
    bundle: Bundle
    make_rows: RowBlocks
    tally: Tally

    def to_table(self, table: PartialTable) -> Choice:
        choice = self._choose(table.way)
        way = table.way or Way(choice.engine, self.job.batch_size or block_size(self.bundle))
        table.begin(way, header(self.bundle.class_names))
        for row in table.written():
            self.tally.add(said(row))
        self._run(way, table.done, table.append, choice)
        return choice

    def to_stdout(self) -> Choice:
        choice = self._choose(None)
        way = Way(choice.engine, self.job.batch_size or block_size(self.bundle))

        def write(rows: Sequence[Sequence[object]]) -> None:
            sys.stdout.buffer.write(csv_lines(rows).encode())
            sys.stdout.buffer.flush()

        sys.stdout.flush()
        write([header(self.bundle.class_names)])
        self._run(way, 0, write, choice)
        return choice

    def _choose(self, way: Way | None) -> Choice:
        """What runs the network; that of the earlier process where there is one."""
        choice = self._choice(way)
        if choice.engine == "torch":  # what is wrong with a network is said before a row is written
            self.bundle.load()
        return choice

    def _choice(self, way: Way | None) -> Choice:
        if way is not None:
            use_engine(self.bundle, way.engine)
            return Choice(way.engine, "as before the interruption")
        known = known_choice(self.bundle, device=self.job.device)
        if known is not None:
            return known
        sample: list[Prepared] = []
        if len(self.inputs) >= FEW:
            some = (_prepare(self.bundle, each) for each in self.inputs.images[:LOOKED_AT])
            sample = list(islice((one for one in some if not isinstance(one, str)), SAMPLE))
        return choose_engine(self.bundle, sample, len(self.inputs))

    def _run(
        self,
        way: Way,
        done: int,
        write: Callable[[Sequence[Sequence[object]]], None],
        choice: Choice,
    ) -> None:
        total = len(self.inputs)
        with PredictProgress(total, done, sys.stderr) as progress:
            if total >= FEW:
                progress.say(f"{total:,} images; network by {choice}")
            if done:
                progress.say(f"{done:,} were answered before; going on")
            rest = self.inputs.images[done:]
            with closing(self.make_rows(self.job, rest, self.bundle, way)) as blocks:
                for rows in blocks:
                    for row in rows:
                        self.tally.add(said(row))
                    write(rows)
                    progress.step(len(rows))


def _device(name: str) -> str:
    """As `pick_device`; torch is not asked, and not loaded, where only the CPU can be meant."""
    if name == "cpu" or (name == "auto" and (package_version("torch") or "").endswith("+cpu")):
        apply_threads()
        return "cpu"
    from scanwise.training.device import pick_device

    return str(pick_device(name))


def _check(job: Job) -> None:
    if job.output == STDOUT and job.resume:
        raise ConfigError("--resume needs a file to go on with: -o FILE.")
    if job.output == STDOUT and job.sort is not None:
        raise ConfigError("--sort-into reads the answers from a file: give -o FILE.")
    if job.batch_size is not None and job.batch_size < 1:
        raise ConfigError(f"batch_size={job.batch_size} must be at least 1.")


def _rows_here(
    job: Job, inputs: Sequence[Input], bundle: Bundle, way: Way
) -> Generator[list[Row]]:  # fmt: skip
    with closing(answer_blocks(bundle, inputs, way.block, device=job.device)) as blocks:
        yield from map(rows_of, blocks)


def _prepared_blocks(
    bundle: Bundle, inputs: Sequence[Input], block: int
) -> Generator[list[Prepared | str]]:
    """Inputs made ready, AHEAD blocks before they are asked for."""

    def prepare(part: Sequence[Input]) -> list[Prepared | str]:
        return [_prepare(bundle, each) for each in part]

    pool = ThreadPoolExecutor(min(8, usable_cores()), thread_name_prefix="scanwise-decode")
    waiting: deque[list[Future[list[Prepared | str]]]] = deque()
    try:
        for start in range(0, len(inputs), block):
            stop = min(start + block, len(inputs))
            parts = range(start, stop, TASK)
            waiting.append(
                [pool.submit(prepare, inputs[at : min(at + TASK, stop)]) for at in parts]
            )
            if len(waiting) > AHEAD:
                yield [one for part in waiting.popleft() for one in part.result()]
        while waiting:
            yield [one for part in waiting.popleft() for one in part.result()]
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(bundle: Bundle, given: Input) -> Prepared | str:
    """What the network will see, or why not; no file, however odd, ends a job of many."""
    try:
        return bundle.try_prepare(given.source())
    except DataError as error:
        return str(error)
    except MemoryError:
        return "needs more memory than there is"
    except Exception as error:
        return f"can't be prepared ({one_line(error)})"
