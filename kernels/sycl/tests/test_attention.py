"""Attention and the cache's store against float32; every place without a token is NaN."""

from __future__ import annotations

import pytest
import torch
from paged_case import Paged

from pagoda_kernels_sycl import attention, tuning

ALLOWED = {torch.float32: 2e-5, torch.float16: 8 * 2.0**-11, torch.bfloat16: 8 * 2.0**-8}
SHAPES = [  # dtype, heads, kv heads, head size, block size
    (torch.float32, 8, 4, 8, 16),
    (torch.float32, 7, 1, 64, 32),
    (torch.bfloat16, 4, 4, 128, 16),
    (torch.bfloat16, 12, 2, 128, 48),
    (torch.float16, 8, 2, 80, 16),
    (torch.float16, 4, 2, 256, 16),
]
IDS = [f"{str(s[0])[6:]}-{s[1]}over{s[2]}-{s[3]}-block{s[4]}" for s in SHAPES]
RAGGED = ([1, 7, 19, 2, 1, 40], [33, 7, 53, 65, 1, 97])
SINGLE = ([1] * 5, [200, 1, 65, 64, 17])


def error_of(case: Paged, window: int | None, cap: float | None, part: int | None) -> float:
    scale = case.size**-0.5
    wanted = case.expected(scale, window, cap)
    return float((case.run(scale, window, cap, part).float() - wanted).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize(
    ("window", "cap"), [(None, None), (19, None), (1, 2.5), (None, 2.5), (16, None)]
)
def test_ragged(
    device: torch.device, seed: int, shape: tuple, window: int | None, cap: float | None
) -> None:
    dtype, heads, kv_heads, size, block = shape
    case = Paged(*RAGGED, heads, kv_heads, size, block, dtype, seed)
    assert error_of(case, window, cap, None) <= ALLOWED[dtype]


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("part", [16, 64, 512])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (19, 2.5)])
def test_parts(
    device: torch.device, seed: int, shape: tuple, part: int, window: int | None, cap: float | None
) -> None:
    dtype, heads, kv_heads, size, block = shape
    case = Paged(*SINGLE, heads, kv_heads, size, block, dtype, seed)
    assert error_of(case, window, cap, part) <= ALLOWED[dtype]


def test_the_tile_that_gpus_get(
    device: torch.device, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "lanes_of", lambda device: 16)
    monkeypatch.setattr(
        attention, "rows_of", lambda device, size: tuning.rows_of(torch.device("xpu"), size)
    )
    for sizes, part in ((RAGGED, None), (SINGLE, 32)):
        case = Paged(*sizes, 6, 2, 64, 16, torch.float32, seed)
        assert error_of(case, 19, None, part) <= ALLOWED[torch.float32]


def test_a_row_does_not_depend_on_its_neighbours(device: torch.device, seed: int) -> None:
    """Bit by bit, though shorter company makes fewer parts; nor on being split when short."""
    case = Paged(*SINGLE, 4, 2, 64, 16, torch.float32, seed)
    for part in (16, 64):
        whole = case.run(0.125, None, None, part)
        some = Paged(*SINGLE, 4, 2, 64, 16, torch.float32, seed)
        for name in ("queries", "lens", "keys", "values", "table", "q", "slots"):
            setattr(some, name, getattr(case, name)[2:4])
        some.cache = case.cache
        assert torch.equal(some.run(0.125, None, None, part), whole[2:4])
    unsplit = case.run(0.125, None, None, None)
    assert torch.equal(unsplit, case.run(0.125, None, None, 512))


def test_offsets_are_64_bits(device: torch.device, seed: int) -> None:
    """A cache of more than 2^31 elements, of which all but three blocks exist on paper alone."""
    blocks = (1 << 31) // (2 * 2 * 16 * 64) + 5
    cache = torch.empty((blocks, 2, 2, 16, 64), dtype=torch.float16)
    case = Paged([1, 3], [20, 9], 4, 2, 64, 16, torch.float16, seed)
    far = torch.tensor([blocks - 1, 0, blocks - 3, blocks - 2, 3, 4][: len(case.cache)])
    cache[far] = case.cache
    real = case.table < len(case.cache)
    case.table[real] = far[case.table[real].long()].int()
    case.slots = far[case.slots // 16] * 16 + case.slots % 16
    case.cache = cache
    assert error_of(case, None, None, None) <= ALLOWED[torch.float16]


@pytest.mark.parametrize("dtype", list(ALLOWED))
@pytest.mark.parametrize("normed", [False, True])
def test_turned_on_the_way(
    device: torch.device, seed: int, dtype: torch.dtype, normed: bool
) -> None:
    """Views of one stacked product; the second token is not stored."""
    random = torch.Generator().manual_seed(seed)
    heads, kv_heads, size, block, tokens = 4, 2, 64, 16, 5
    stacked = torch.randn(tokens, heads + 2 * kv_heads, size, generator=random).to(dtype)
    q, k, v = stacked.split([heads, kv_heads, kv_heads], 1)
    half = torch.rand(tokens, 1, size // 2, generator=random) * 6
    cos = torch.cat([half.cos(), half.cos()], -1).to(dtype)
    sin = torch.cat([-half.sin(), half.sin()], -1).to(dtype)
    weights = [torch.rand(size, generator=random).to(dtype) + 0.5 for _ in range(2)]
    cache = torch.full((3, 2, kv_heads, block, size), float("nan"), dtype=dtype)
    slots = torch.tensor([17, -1, 5, 40, 16])
    out = torch.full((tokens, heads * size), float("nan"), dtype=dtype)
    norms = (weights[0], weights[1], 1e-5) if normed else None
    attention.turn_and_store(q, k, v, out, cache, slots, (cos, sin), norms)

    def turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = x.float()
        if normed:
            x = torch.nn.functional.rms_norm(x, (size,), weight.float(), 1e-5)
        return x * cos.float() + x.roll(size // 2, -1) * sin.float()

    def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
        return bool(
            ((found.float() - wanted).abs() <= ALLOWED[dtype] * wanted.abs().clamp(min=1)).all()
        )

    assert close(out.view(tokens, heads, size), turned(q, weights[0]))
    stored = [0, 2, 3, 4]
    at = slots[stored]
    assert close(cache[at // block, 0, :, at % block], turned(k, weights[1])[stored])
    assert torch.equal(cache[at // block, 1, :, at % block], v[stored])
    assert int(cache.isnan().logical_not().sum()) == 4 * 2 * kv_heads * size
