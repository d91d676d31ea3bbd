"""Programs that are done again give what Python gives, whichever way they go."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":  # or the kernels here would be made to be compiled
    pytest.skip("TRITON_INTERPRET=1 runs this", allow_module_level=True)
from pagoda_triton_interpret import replay, sanitizer

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

runs: list[int] = []


@triton.jit
def sums(x_ptr, lens_ptr, out_ptr, arrived_ptr, scale, SIZE: tl.constexpr, ODD: tl.constexpr):
    """Each program adds up its row's first elements; the last to arrive adds up those sums."""
    runs.append(1)  # Python came by
    row = tl.program_id(0)
    length = tl.load(lens_ptr + row)
    if length == 0:
        return
    at = tl.arange(0, SIZE)
    total = tl.zeros([SIZE], tl.float32)
    for first in range(0, length, SIZE):
        x = tl.load(x_ptr + row * 64 + first + at, mask=first + at < length, other=0.0)
        total += x * scale
        if first == SIZE:
            total += ODD
    tl.store(out_ptr + row, tl.sum(total, axis=0))
    arrived = tl.atomic_add(arrived_ptr, 1)
    if arrived == 3:
        rows = tl.arange(0, 4)
        tl.store(out_ptr + 4, tl.sum(tl.load(out_ptr + rows), axis=0))


def check(lens: list[int], scale: int = 2, odd: float = 0.5) -> int:
    """Run over 4 rows; how many of the programs were Python's."""
    runs.clear()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    out, arrived = torch.zeros(5), torch.zeros(1, dtype=torch.int32)
    sums[(4,)](x, torch.tensor(lens, dtype=torch.int32), out, arrived, scale, SIZE=8, ODD=odd)
    rows = [
        (row[:n] * scale).sum() + (8 * odd if n > 8 else 0) for row, n in zip(x, lens, strict=True)
    ]
    torch.testing.assert_close(out[:4], torch.stack(rows))
    assert arrived.item() == sum(n > 0 for n in lens)
    whole = sum(rows) if all(lens) else torch.tensor(0.0)
    torch.testing.assert_close(out[4], torch.as_tensor(whole))
    return len(runs)


def test_each_way_is_python_s_once() -> None:
    replay.Kernel.lines.clear()
    assert check([5, 5, 5, 5]) == 2  # the last one joins
    assert check([5, 5, 5, 5], scale=3) == 0
    assert check([5, 30, 0, 5]) == 2
    assert check([0, 30, 30, 5]) == 0
    assert check([17, 30, 17, 5]) == 1
    assert check([5, 5, 5, 5], odd=0.25) == 2  # another constant


def test_what_is_not_understood_is_interpreted() -> None:
    replay.Kernel.lines.clear()
    x, out = torch.arange(12.0).view(3, 4), torch.zeros(4, 3)
    for _ in range(2):
        transpose[(1,)](x, out, ROWS=3)
        assert torch.equal(out, x.t())
        out.zero_()
    assert list(replay.Kernel.lines.values()) == [None]


@triton.jit
def transpose(x_ptr, out_ptr, ROWS: tl.constexpr):
    row, column = tl.arange(0, 4), tl.arange(0, 4)
    at = row[:, None] * 4 + column[None, :]
    x = tl.load(x_ptr + at, mask=(row < ROWS)[:, None], other=0.0)
    to = column[:, None] * ROWS + row[None, :]
    tl.store(out_ptr + to, x.T, mask=(row < ROWS)[None, :])


@triton.jit
def shapes(x_ptr, out_ptr, first, SIZE: tl.constexpr):
    """What knows of shapes: a product with itself turned, its sums, its largest and where it is."""
    program = first + tl.program_id(0)
    at = tl.arange(0, SIZE)
    x = tl.load(x_ptr + program * (SIZE * SIZE) + at[:, None] * SIZE + at[None, :])
    product = tl.dot(x, tl.trans(x), input_precision="ieee")
    flat = tl.reshape(product, [SIZE * SIZE])
    largest, where = tl.max(flat, axis=0, return_indices=True)
    found = tl.where(at == 0, largest, tl.sum(product, axis=1))
    found = tl.where(at == 1, where.to(tl.float32), found)
    found = tl.where(at == 2, tl.sum(product), found)
    found = tl.where(at == 3, tl.load(x_ptr), found)
    found += tl.cumsum(tl.sum(product, axis=0, keep_dims=True), axis=1).reshape([SIZE])
    tl.store(out_ptr + program * SIZE + at, found)


@pytest.mark.parametrize("count", [1, 2, 150])
def test_many_at_once_are_as_each_alone(count: int) -> None:
    replay.Kernel.lines.clear()
    x = torch.randn(count, 16, 16, generator=torch.Generator().manual_seed(count))
    out = torch.zeros(count, 16)
    for _ in range(2):  # the second time no program is Python's
        shapes[(count,)](x, out, 0, SIZE=16)
        product = x @ x.transpose(1, 2)
        rows = product.sum(2)
        rows[:, 0], rows[:, 1] = product.flatten(1).max(1)
        rows[:, 2], rows[:, 3] = product.sum((1, 2)), x[0, 0, 0]
        torch.testing.assert_close(out, rows + product.sum(1).cumsum(1), atol=1e-3, rtol=1e-4)
        out.zero_()
    assert None not in replay.Kernel.lines.values()


@triton.jit
def one_place(x_ptr, out_ptr):
    tl.store(out_ptr, tl.load(x_ptr))


def test_many_that_store_to_one_place() -> None:
    x, out = torch.ones(1), torch.zeros(1)
    one_place[(1,)](x, out)
    with pytest.raises(sanitizer.WriteRace, match="programs 0 and 1 of one_place"):
        one_place[(3,)](x, out)
