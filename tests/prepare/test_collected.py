"""Rows of batches joined as they come."""

from __future__ import annotations

import pytest
import torch

from scanwise.prepare.collected import Collected


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_rows_are_those_of_the_parts_joined(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [8] * 300 + [5, 0, 4000, 1]
    parts = [torch.randint(-9, 9, (size, *shape), generator=generator).to(dtype) for size in sizes]
    rows = Collected()
    for part in parts:
        rows.add(part)
    assert len(rows) == sum(sizes)
    assert rows.whole().dtype == dtype
    assert torch.equal(rows.whole(), torch.cat(parts))


def test_few_blocks_of_memory_are_taken() -> None:
    rows, blocks = Collected(), set()
    for _ in range(3000):
        rows.add(torch.zeros(8, 2))
        blocks.add(rows.whole().data_ptr())
    assert len(blocks) <= 6


def test_nothing_collected_is_told() -> None:
    with pytest.raises(ValueError, match="nothing was collected"):
        Collected().whole()
