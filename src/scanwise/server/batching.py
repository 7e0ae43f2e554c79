"""Many requests, one network: images that wait together are computed together.

Of each image: decoded in a pool of threads, then put into a queue; one worker takes what is there,
lets the network answer, and hands each answer to the request that waits for it. A lone request
never waits: the worker only waits (a few ms) while further images are being decoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from scanwise.deploy.answers import Answer
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.server.errors import busy
from scanwise.server.schemas import Timing
from scanwise.server.threads import Threads

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Job:
    prepared: Prepared
    ready: float  # when it was prepared
    future: asyncio.Future[tuple[Answer, float, float, int]]  # answer, start, seconds, batch size


class Batcher:
    """Answers the images of one model; lives in one event loop.

    Args:
        bundle: The model.
        decoders: Threads for `prepare`, shared by all models.
        prepare: From bytes to what the network sees; raises what the request is to be told.
        queue: Images accepted and not yet answered, at most.
        batch: Images computed together, at most.
        wait_s: Longest wait for images that are being decoded.
        device: Where to compute.
        on_batch: Told the size of each batch.
    """

    def __init__(
        self,
        bundle: Bundle,
        decoders: Threads,
        prepare: Callable[[bytes], Prepared],
        *,
        queue: int,
        batch: int,
        wait_s: float,
        device: str = "cpu",
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.bundle = bundle
        self.pending = 0  # images accepted and not yet answered
        self._decoders, self._prepare = decoders, prepare
        self._queue, self._batch, self._wait_s = queue, batch, wait_s
        self._device, self._on_batch = device, on_batch
        self._coming = 0  # images being decoded
        self._ready: asyncio.Queue[_Job] = asyncio.Queue()
        # One thread computes all that this network is asked: hooks on it see one batch at a time.
        self._network = Threads(1, "network")
        self._worker: asyncio.Task[None] | None = None

    @contextmanager
    def places(self, n: int) -> Iterator[None]:
        """Accept n images, or refuse them at once.

        Raises:
            ApiError: 429, if the queue has no room for them.
        """
        if self.pending + n > self._queue:
            raise busy(f"{self.pending} images wait already, of at most {self._queue}.")
        self.pending += n
        try:
            yield
        finally:
            self.pending -= n

    async def answer(self, data: bytes) -> tuple[Answer, Timing]:
        """Decode one file and answer it; call it within `places`.

        Raises:
            ApiError: What `prepare` raises.
        """
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        start = time.perf_counter()
        self._coming += 1
        try:
            prepared = await self._decoders.run(lambda: self._prepare(data))
        finally:
            self._coming -= 1
        job = _Job(prepared, time.perf_counter(), asyncio.Future())
        self._ready.put_nowait(job)
        answer, began, seconds, size = await job.future
        timing = Timing(
            decode_ms=_ms(job.ready - start),
            wait_ms=_ms(began - job.ready),
            predict_ms=_ms(seconds),
            batch_size=size,
        )
        return answer, timing

    async def alone(self, compute: Callable[[], T]) -> T:
        """Run something else that asks this network, between two batches."""
        return await self._network.run(compute)

    async def close(self) -> None:
        """End the worker; call it when nothing is pending."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._network.close()

    async def _work(self) -> None:
        while True:
            jobs = [await self._ready.get()]
            await self._fill(jobs)
            waiting = [job for job in jobs if not job.future.done()]  # else the client went away
            if waiting:
                await self._compute(waiting)

    async def _fill(self, jobs: list[_Job]) -> None:
        """Add what is ready, and what is being decoded if that takes no longer than `wait_s`."""
        try:
            async with asyncio.timeout(self._wait_s):
                while len(jobs) < self._batch:
                    if self._ready.empty() and not self._coming:
                        return
                    jobs.append(await self._ready.get())
        except TimeoutError:
            return

    async def _compute(self, jobs: Sequence[_Job]) -> None:
        self._on_batch(len(jobs))
        began = time.perf_counter()
        try:
            answers = await self.alone(lambda: self._predict([job.prepared for job in jobs]))
        except Exception as error:
            if len(jobs) > 1:  # one image must not spoil the answers to others
                for job in jobs:
                    await self._compute([job])
            elif not jobs[0].future.done():
                jobs[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - began
        for job, answer in zip(jobs, answers, strict=True):
            if not job.future.done():
                job.future.set_result((answer, began, seconds, len(jobs)))

    def _predict(self, prepared: Sequence[Prepared]) -> list[Answer]:
        samples = [str(place) for place in range(len(prepared))]
        return list(self.bundle.predict_prepared(samples, prepared, device=self._device))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
