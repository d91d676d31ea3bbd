"""Hopper's own kernels, on such a GPU, against float32; elsewhere they are compiled for one."""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import kernel_mode
import pytest
import torch
import torch.nn.functional as F
from dense_reference import check_whole_prompts

HERE = kernel_mode.on_gpu() and torch.cuda.get_device_capability()[0] == 9
on_hopper = pytest.mark.skipif(not HERE, reason="no Hopper GPU")
DTYPES = (torch.bfloat16, torch.float16)
LAYERS = [  # inputs, outputs
    (1024, 4096),
    (3072, 1024),
    (4096, 6144),
    (14336, 4096),
    (768, 50272),
    (200, 330),
    (8, 24),
]


@on_hopper
@pytest.mark.parametrize("size", LAYERS)
@pytest.mark.parametrize("activation", [None, "relu", "silu_and_mul"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products(size: tuple[int, int], activation: str | None, dtype: torch.dtype) -> None:
    """Whatever the rows, and the same each time; beyond the rows nothing is written or read."""
    from pagoda_cuda.cuts import cut_of
    from pagoda_cuda.hopper_products import product

    inputs, outputs = size
    gated = activation == "silu_and_mul"
    halves = 2 if gated else 1
    seed = random.randrange(1 << 30)
    print("seed", seed)
    torch.manual_seed(seed)
    weight = (torch.randn(outputs * halves, inputs, device="cuda") / inputs**0.5).to(dtype)
    bias = torch.randn(outputs * halves, device="cuda").to(dtype)
    for rows in (2, 17, 64, 65, 128, 200):
        cut = cut_of(rows, outputs, inputs, gated, 132)
        if cut is None:
            continue
        behind = torch.full((rows + 70, inputs), float("nan"), dtype=dtype, device="cuda")
        behind[:rows] = torch.randn(rows, inputs, device="cuda")
        x = behind[:rows]
        for b in (None, bias):
            wanted = F.linear(x.float(), weight.float(), None if b is None else b.float())
            if activation == "relu":
                wanted = F.relu(wanted)
            if gated:
                gate, up = wanted.chunk(2, -1)
                wanted = F.silu(gate) * up
            found = product(x, weight, b, activation, cut)
            error = float((found.float() - wanted).norm() / wanted.norm())
            assert error < 1e-2, (rows, cut, error)
            assert torch.equal(found, product(x, weight, b, activation, cut))


@on_hopper
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 64), (2, 2, 128), (32, 8, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_prompts(heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    from pagoda_cuda.hopper_dense import ROWS, dense_attention

    for lens in ([200, 1, 70], [128, 129, 1024, 5, 555]):
        check_whole_prompts(dense_attention, ROWS, lens, heads, kv_heads, size, dtype)


compiles = pytest.mark.skipif(
    HERE or find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="where Triton compiles, for a GPU that is not here",
)


@compiles
@pytest.mark.parametrize("size", [64, 128])
def test_attention_compiles(size: int) -> None:
    from fake_driver import pretend
    from target_resources import resources

    from pagoda_cuda.hopper_dense import dense_attention

    q, k = torch.zeros(256, 4, size).bfloat16(), torch.zeros(256, 2, size).bfloat16()
    tiles = torch.zeros(2, 4, dtype=torch.int32)
    with pretend("sm_90") as driver:
        dense_attention(q, k, k.clone(), q.flatten(1).clone(), tiles, 0.1)
        found = resources(driver.launches[-1].compiled, driver.chip)
    assert found.problems(driver.chip, True) == []
    assert found.matrix == "wgmma.mma_async"


@compiles
@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize(
    ("inputs", "outputs", "activation"),
    [(4096, 4096, None), (4096, 14336, "silu_and_mul"), (1024, 151936, None), (768, 3072, "relu")],
)
def test_products_compile(rows: int, inputs: int, outputs: int, activation: str | None) -> None:
    from fake_driver import pretend
    from target_resources import resources

    from pagoda_cuda.cuts import cut_of
    from pagoda_cuda.hopper_products import product

    gated = activation == "silu_and_mul"
    cut = cut_of(rows, outputs, inputs, gated, 132)
    assert cut is not None
    weight = torch.empty(outputs * (2 if gated else 1), inputs, dtype=torch.bfloat16)
    with pretend("sm_90") as driver:
        product(torch.zeros(rows, inputs).bfloat16(), weight, None, activation, cut)
        found = resources(driver.launches[-1].compiled, driver.chip)
    assert found.problems(driver.chip, True) == []
    assert found.matrix == "wgmma.mma_async"
