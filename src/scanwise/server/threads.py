"""Threads whose waiting line can be left: what nobody waits for any more is never computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A pool of threads, used from one event loop.

    A pool's own queue has no end and keeps what a cancelled caller put there, an upload for
    example, until a thread comes to it. So callers wait for a free thread in the event loop, first
    come first served; one that is cancelled there leaves nothing behind.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._free = asyncio.Semaphore(count)

    async def run(self, compute: Callable[[], T]) -> T:
        """Compute in a thread; raises what `compute` raises."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()

        def ended(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._free.release)

        try:
            future = self._pool.submit(compute)
        except BaseException:
            self._free.release()
            raise
        # Not when the caller leaves: a thread can't be stopped, and is free when it has ended.
        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Start nothing more; what runs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
