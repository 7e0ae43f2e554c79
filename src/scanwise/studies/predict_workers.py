"""`predict` here, or in blocks on a Ray cluster: for folders beyond one machine."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from scanwise.core.errors import ConfigError, one_line
from scanwise.core.runtime import choose_threads
from scanwise.studies.workers import connect

if TYPE_CHECKING:  # a worker limits its threads before torch is loaded
    from scanwise.deploy.bundle import Bundle
    from scanwise.deploy.fast import EngineName
    from scanwise.pipeline.answer_rows import Row
    from scanwise.pipeline.find_inputs import Input
    from scanwise.pipeline.partial_table import Way
    from scanwise.pipeline.predict import Job
    from scanwise.pipeline.predict_summary import Summary

RETRIES = 2  # of a block whose worker was lost


def predict_on(job: Job, backend: str = "local", address: str | None = None) -> Summary:
    """`pipeline.predict.predict`, on this machine or on Ray.

    Raises:
        ConfigError: Unknown backend, an address without Ray, or Ray is not installed.
        ScanwiseError: The cluster does not answer; and as `predict`.
    """
    from scanwise.pipeline.predict import predict

    if backend not in ("local", "ray"):
        raise ConfigError(f"backend={backend!r} is unknown; choose local or ray.")
    if address is not None and backend != "ray":
        raise ConfigError(f"--address {address} needs --backend ray.")
    if backend == "local":
        return predict(job)
    return predict(job, functools.partial(_rows_on_ray, address))


def _rows_on_ray(
    address: str | None, job: Job, inputs: Sequence[Input], bundle: Bundle, way: Way
) -> Generator[list[Row]]:
    """Rows of each block, in order; one worker a core of the cluster, two blocks each at most.

    The files and the model must be found under the same paths on all machines.
    """
    from scanwise.pipeline.answer_rows import error_row

    ray = connect(address)
    try:
        threads = choose_threads({})[0] if address is None else 1
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        many = max(1, min(cores, -(-len(inputs) // way.block)))
        each = max(1, threads // many)
        gpus = 1 if job.device == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_rows_of_block)
        here, model = os.getcwd(), str(job.model)
        waiting: deque[tuple[Any, Sequence[Input]]] = deque()
        starts = iter(range(0, len(inputs), way.block))

        def submit() -> None:
            for start in starts:
                part = inputs[start : start + way.block]
                waiting.append((task.remote(here, model, part, way.engine, job.device, each), part))
                return

        for _ in range(2 * many):
            submit()
        while waiting:
            future, part = waiting.popleft()
            try:
                yield ray.get(future)
            except ray.exceptions.RayError as error:
                reason = f"its worker was lost: {one_line(error)}"
                yield [error_row(one.name, reason, len(bundle.class_names)) for one in part]
            submit()
    finally:
        ray.shutdown()


def _rows_of_block(
    folder: str, model: str, inputs: Sequence[Input], engine: EngineName, device: str, threads: int
) -> list[Row]:
    """In a worker: the rows of one block."""
    from scanwise.core.runtime import limit_threads

    limit_threads(threads)
    os.chdir(folder)
    from scanwise.pipeline.answer_rows import rows_of
    from scanwise.pipeline.predict import answer_blocks

    bundle = _opened(model, engine)
    blocks = answer_blocks(bundle, inputs, len(inputs), device=device)
    return [row for answers in blocks for row in rows_of(answers)]


@functools.lru_cache(maxsize=1)
def _opened(model: str, engine: EngineName) -> Bundle:
    """The model of this worker: opened once."""
    from pathlib import Path

    from scanwise.deploy.fast import use_engine
    from scanwise.deploy.opening import open_model

    bundle = open_model(Path(model), lazily=True)
    use_engine(bundle, engine)
    return bundle
