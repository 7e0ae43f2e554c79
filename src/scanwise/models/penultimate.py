"""What a network hands to its last layer: its features, seen without changing what it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

# Kept beside the networks, not in them: a lock can't be copied or pickled.
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_finding = threading.Lock()


@contextmanager
def alone_with(network: nn.Module) -> Iterator[None]:
    """While it is open, other threads that ask for the same network wait.

    Hooks belong to the network, not to a thread: without this, one thread's hook sees what another
    thread computes, and a copy of the network takes hooks along that are not its own.
    """
    with _finding:
        lock = _locks.setdefault(network, threading.RLock())
    with lock:
        yield


@contextmanager
def watch_features(network: nn.Module) -> Iterator[Callable[[], Tensor | None]]:
    """While it is open, remember the input of the last `nn.Linear` that ran.

    Where threads may share the network, open `alone_with` around it.

    That is the penultimate layer of every network here (ConvNet, MLP, a head on a frozen backbone)
    and of most of a user's own.

    Yields:
        A function: features (b, d) of the batch that ran last, or None where the network has no
        such layer or feeds it something else than one vector an image.
    """
    seen: list[Tensor] = []

    def remember(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = [inputs[0]]

    def last() -> Tensor | None:
        return seen[0] if seen and seen[0].ndim == 2 else None

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()
