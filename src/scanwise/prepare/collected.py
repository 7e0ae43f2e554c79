"""Rows of many batches in one block of memory."""

from __future__ import annotations

from torch import Tensor


class Collected:
    """What each batch of a pass leaves, joined as it comes.

    A list of small tensors to be joined at the end would be simpler. But each of them would lie
    where the large blocks of its batch were, and the next batch no longer fits there: own memory
    grew by 8 MB at every batch of 8 images of 512 px. Here a new block is needed only whenever
    the rows have doubled.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._num_rows = 0

    def __len__(self) -> int:
        return self._num_rows

    def add(self, part: Tensor) -> None:
        """Append (b, …); every part has the same shape but for b, type and device."""
        stop = self._num_rows + len(part)
        if self._rows is None or stop > len(self._rows):
            grown = part.new_empty((max(1024, 2 * stop), *part.shape[1:]))
            if self._rows is not None:
                grown[: self._num_rows] = self._rows[: self._num_rows]
            self._rows = grown
        self._rows[self._num_rows : stop] = part
        self._num_rows = stop

    def whole(self) -> Tensor:
        """All rows (n, …); ValueError if nothing was added."""
        if self._rows is None:
            raise ValueError("nothing was collected")
        return self._rows[: self._num_rows]
