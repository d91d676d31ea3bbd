"""Arithmetic as on a GPU, and what the interpreter is made to refuse."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":  # or the kernels here would be made to be compiled
    pytest.skip("TRITON_INTERPRET=1 runs this", allow_module_level=True)
from pagoda_triton_interpret import sanitizer
from pagoda_triton_interpret.interpreter import overflow_checked

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
]


@triton.jit
def product(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    found = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), input_precision="ieee")
    tl.store(out_ptr + at, found)


@triton.jit
def cast(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    found = tl.load(x_ptr + at).to(tl.float32)
    tl.store(out_ptr + at, found.to(out_ptr.dtype.element_ty))


@triton.jit
def double(x_ptr, out_ptr, SIZE: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, SIZE))
    tl.store(out_ptr + tl.arange(0, SIZE), x + x)


@triton.jit
def copy(x_ptr, out_ptr, size, first, step, SIZE: tl.constexpr):
    """Each program ``SIZE`` elements, from ``first + program * step`` on."""
    at = first + tl.program_id(0) * step + tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < size, other=0.0), mask=at < size)


@triton.jit
def times(x_ptr, out_ptr, factor, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at) * factor)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_products(dtype: torch.dtype, random: torch.Generator) -> None:
    a, b = (torch.randn(16, 16, generator=random).to(dtype) for _ in range(2))
    out = torch.empty(16, 16)
    product[(1,)](a, b, out, SIZE=16)
    torch.testing.assert_close(out, a.float() @ b.float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_casts_round_as_torch_does(dtype: torch.dtype, random: torch.Generator) -> None:
    x = torch.randn(64, generator=random) * 10
    x[:3] = torch.tensor([0.0, -0.0, 1.0])
    narrow, wide = torch.empty(64, dtype=dtype), torch.empty(64)
    cast[(1,)](x, narrow, SIZE=64)
    assert torch.equal(narrow.float(), x.to(dtype).float())
    cast[(1,)](narrow, wide, SIZE=64)
    assert torch.equal(wide, narrow.float())


def test_bfloat16_is_cast_before_arithmetic() -> None:
    x, out = torch.ones(16, dtype=torch.bfloat16), torch.zeros(16, dtype=torch.bfloat16)
    with pytest.raises(Exception, match="cast to float32 first"):
        double[(1,)](x, out, SIZE=16)


@pytest.mark.parametrize(
    ("size", "first", "ok"), [(64, 0, True), (60, 0, True), (65, 16, False), (64, -1, False)]
)
def test_every_lane_is_inside_of_an_argument(size: int, first: int, ok: bool) -> None:
    whole = torch.zeros(2, 200)
    x, out = whole[0, 100:164], whole[1, 100:164]  # all around is allocated too
    if ok:
        copy[(4,)](x, out, size, first, 16, SIZE=16)
        return
    with pytest.raises(Exception, match="OutOfBounds"):
        copy[(4,)](x, out, size, first, 16, SIZE=16)


def test_two_programs_that_store_to_one_place() -> None:
    x, out = torch.zeros(64), torch.zeros(64)
    with pytest.raises(sanitizer.WriteRace, match="programs 0 and 1 of copy"):
        copy[(2,)](x, out, 64, 0, 15, SIZE=16)
    shared = out[15].data_ptr()
    sanitizer.shared_places.add(shared)
    copy[(2,)](x, out, 64, 0, 15, SIZE=16)
    sanitizer.shared_places.discard(shared)
    copy[(4,)](x, out, 64, 0, 16, SIZE=16)


def test_int32_products_that_wrap() -> None:
    x, out = torch.full((16,), 70000, dtype=torch.int32), torch.zeros(16, dtype=torch.int32)
    times[(1,)](x, out, 70000, SIZE=16)  # unseen, as on a GPU
    with overflow_checked(), pytest.raises(Exception, match="int32 overflow"):
        times[(1,)](x, out, 70000, SIZE=16)
    with overflow_checked():
        times[(1,)](x, out, 3, SIZE=16)
    assert int(out[0]) == 210000
