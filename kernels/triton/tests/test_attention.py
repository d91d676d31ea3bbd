"""Paged attention against dense float32 attention, over poisoned caches."""

from __future__ import annotations

import numpy as np
import paged
import pytest
import torch
from torch import Tensor

from pagoda_kernels_triton.decode import Fresh, decode_attention
from pagoda_kernels_triton.prefill import prefill_attention, prefill_tiles, tokens_of_tile
from pagoda_kernels_triton.shared import Sharing, shared_attention
from pagoda_kernels_triton.store import rotate_and_store

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# (heads, kv heads), head size, block size, window, soft cap, dtype
SHAPES = [
    ((8, 2), 64, 16, None, None, BF16),
    ((4, 4), 128, 32, None, None, FP16),
    ((7, 1), 80, 16, None, None, FP32),
    ((4, 1), 256, 16, None, 20.0, BF16),
    ((8, 2), 64, 16, 20, None, BF16),
    ((2, 2), 96, 64, 5, 30.0, FP32),
    ((4, 2), 48, 16, None, None, FP32),
]


def prefill(case: paged.Paged, **settings: object) -> Tensor:
    heads, size = case.q.shape[1:]
    group = heads // case.cache.shape[2]
    tokens = tokens_of_tile(case.q.device, group, size, case.q.element_size())
    tiles = prefill_tiles(case.query_start, case.contexts, case.block_start, tokens)
    out = torch.full((len(case.q), heads * size), float("nan"), dtype=case.q.dtype)
    out = out.to(case.q.device)
    where = torch.from_numpy(tiles).to(case.q.device)
    prefill_attention(case.q, case.cache, out, where, case.blocks, **settings)  # type: ignore[arg-type]
    return out


def decode(case: paged.Paged, **settings: object) -> Tensor:
    heads, size = case.q.shape[1:]
    device = case.q.device
    out = torch.full((len(case.q), heads * size), float("nan"), dtype=case.q.dtype).to(device)
    lens, start = (
        torch.from_numpy(np.asarray(x, np.int32)).to(device) for x in (case.lens, case.block_start)
    )
    decode_attention(case.q, case.cache, out, lens, start, case.blocks, **settings)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize(("heads", "size", "block", "window", "cap", "dtype"), SHAPES)
@pytest.mark.parametrize(
    ("queries", "lens"),
    [([1, 7, 33, 1, 5], [40, 7, 50, 1, 70]), ([5, 40, 2], [5, 67, 33])],
)
def test_prefill(
    heads: tuple[int, int],
    size: int,
    block: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    queries: list[int],
    lens: list[int],
    device: str,
) -> None:
    case = paged.make(queries, lens, heads, size, block, dtype, device)
    found = prefill(case, scale=size**-0.5, window=window, soft_cap=cap)
    wanted = paged.dense(case, size**-0.5, window, cap)
    assert paged.error(found, wanted) < paged.TOLERANCE[dtype]


@pytest.mark.parametrize(("heads", "size", "block", "window", "cap", "dtype"), SHAPES)
@pytest.mark.parametrize("splits", [1, 4])
def test_decode(
    heads: tuple[int, int],
    size: int,
    block: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    splits: int,
    device: str,
) -> None:
    case = paged.make([1, 1, 1], [40, 1, 141], heads, size, block, dtype, device)
    found = decode(case, scale=size**-0.5, window=window, soft_cap=cap, splits=splits)
    wanted = paged.dense(case, size**-0.5, window, cap)
    assert paged.error(found, wanted) < paged.TOLERANCE[dtype]


@pytest.mark.parametrize(("heads", "size", "block", "window", "cap", "dtype"), SHAPES)
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_decode_stores_its_own_key(
    heads: tuple[int, int],
    size: int,
    block: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    splits: int,
    norm: bool,
    device: str,
) -> None:
    """Against storing first: the same cache but for rounding, and the same attention."""
    case = paged.make([1, 1, 1, 1], [40, 1, 141, 64], heads, size, block, dtype, device)
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype).to(device)

    k, v, weights = normal(4, heads[1], size), normal(4, heads[1], size), normal(2, size)
    table = normal(4, 2, size)
    table[:, 0, size // 2 :] = table[:, 0, : size // 2]
    table[:, 1, : size // 2] = -table[:, 1, size // 2 :]
    angles = table[:, :1], table[:, 1:]
    norms = (weights[0], weights[1], 1e-6) if norm else None
    last = torch.tensor([length - 1 for length in case.lens])
    ids = case.blocks.cpu().long()[torch.from_numpy(case.block_start).long() + last // block]
    slots = (ids * block + last % block).to(device)
    cache, q = case.cache.clone(), torch.empty_like(case.q)
    rotate_and_store(case.q, k, v, q.flatten(1), cache, slots, angles, norms)
    fresh = Fresh(k, v, slots, angles, norms)
    settings = {"scale": size**-0.5, "window": window, "soft_cap": cap, "splits": splits}
    found = decode(case, fresh=fresh, **settings)
    assert torch.equal(case.cache.isnan(), cache.isnan())
    stored, expected = case.cache.nan_to_num(), cache.nan_to_num()
    assert paged.error(stored, expected.float().cpu()) < paged.TOLERANCE[dtype]
    case.q, case.cache = q, cache
    wanted = decode(case, **settings).float().cpu()
    assert paged.error(found, wanted) < paged.TOLERANCE[dtype]


@pytest.mark.parametrize(("heads", "size", "block", "window", "cap", "dtype"), SHAPES)
@pytest.mark.parametrize(("shared", "splits"), [(96, 1), (16, 2), (0, 1)])
def test_rows_that_share_their_first_keys(
    heads: tuple[int, int],
    size: int,
    block: int,
    window: int | None,
    cap: float | None,
    dtype: torch.dtype,
    shared: int,
    splits: int,
    device: str,
) -> None:
    """Three of four rows, each with blocks of its own behind; none where nothing is shared."""
    shared = shared // block * block
    lens = [shared + 70, 33, shared + 1, shared + block + 1]
    case = paged.make([1] * 4, lens, heads, size, block, dtype, device)
    members = [0, 2, 3] if shared else []
    for row in members[1:]:
        at, first = case.block_start[row], case.block_start[0]
        case.cache[case.blocks[at : at + shared // block].long()] = float("nan")  # nobody's now
        case.blocks[at : at + shared // block] = case.blocks[first : first + shared // block]
        case.keys[row][:shared] = case.keys[0][:shared]
        case.values[row][:shared] = case.values[0][:shared]

    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    own_start = ints([shared if row in members else 0 for row in range(4)])
    sharing = Sharing(ints((members + [-7777] * 4)[:4]), ints([len(members), shared]), own_start)
    start, scale = ints(case.block_start.tolist()), size**-0.5
    found = shared_attention(case.q, case.cache, sharing, start, case.blocks, scale, cap)
    out = decode(case, scale=scale, soft_cap=cap, splits=splits, shared=found)
    assert paged.error(out, paged.dense(case, scale, None, cap)) < paged.TOLERANCE[dtype]


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_a_cache_of_8_bits(kind: torch.dtype, dtype: torch.dtype, device: str) -> None:
    """Attention over what it can hold; storing rounds to that, or to the largest number."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("a GPU before fp8")
    for queries in ([1, 7, 33], [1, 1, 1]):
        case = paged.make(queries, [40, 7, 150], (4, 2), 64, 16, dtype, device)
        case.cache = case.cache.to(kind)
        case.keys = [x.to(kind).to(dtype) for x in case.keys]
        case.values = [x.to(kind).to(dtype) for x in case.values]
        found = (prefill if max(queries) > 1 else decode)(case, scale=0.125)
        wanted = paged.dense(case, 0.125, None, None)
        assert paged.error(found, wanted) < paged.TOLERANCE[dtype]
    k, v = (torch.randn(3, 2, 64).to(dtype).to(device) for _ in "kv")
    k[0, 0, :2] = torch.tensor([1e5, -1e5])
    last = [39, 6, 149]
    ids = [int(case.blocks[int(case.block_start[i]) + p // 16]) for i, p in enumerate(last)]
    slots = torch.tensor([b * 16 + p % 16 for b, p in zip(ids, last, strict=True)], device=device)
    stored = case.cache.clone()
    rotate_and_store(case.q, k, v, torch.empty_like(case.q).flatten(1), stored, slots)
    found = decode(case, scale=0.125, fresh=Fresh(k, v, slots, None, None))
    most = torch.finfo(kind).max
    for i, slot in enumerate(slots.tolist()):
        for cache in (stored, case.cache):
            row = cache[slot // 16, :, :, slot % 16].float()
            wanted = torch.stack((k[i], v[i])).float().clamp(-most, most).to(kind).float()
            assert torch.equal(row, wanted)
    case.cache = stored
    wanted = decode(case, scale=0.125).float().cpu()
    assert paged.error(found, wanted) < paged.TOLERANCE[dtype]


@pytest.mark.parametrize("splits", [1, 2])
def test_rows_in_another_order(splits: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = paged.make([1] * 3, [20, 150, 3], (4, 2), 64, 16, FP16, device)
    monkeypatch.setattr("pagoda_kernels_triton.decode.ordered", lambda *_: True)
    order = torch.tensor([1, 0, 2], dtype=torch.int32, device=device)
    found = decode(case, scale=0.125, splits=splits, order=order)
    wanted = paged.dense(case, 0.125, None, None)
    assert paged.error(found, wanted) < paged.TOLERANCE[FP16]


@pytest.mark.parametrize("splits", [1, 2])
def test_padding_rows_are_zero(splits: int, device: str) -> None:
    case = paged.make([1, 1], [20, 3], (4, 2), 64, 16, FP32, device)
    case.lens[1] = 0
    found = decode(case, scale=0.125, splits=splits)
    assert not found[1].any()
    assert torch.isfinite(found[0]).all()


def test_strided_queries(device: str) -> None:
    case = paged.make([3, 1], [9, 20], (4, 2), 64, 16, FP16, device)
    wide = torch.full((4, 8, 64), float("nan"), dtype=FP16).to(device)
    wide[:, :4] = case.q
    case.q = wide[:, :4]
    wanted = paged.dense(case, 0.125, None, None)
    assert paged.error(prefill(case, scale=0.125), wanted) < paged.TOLERANCE[FP16]


def test_caches_past_two_billion_elements(device: str) -> None:
    """32-bit offsets would wrap; the cache is never touched but in its last blocks."""
    case = paged.make([1, 2], [20, 33], (2, 1), 64, 16, FP16, device)
    used = len(case.cache)
    first = (1 << 20) + 5
    cache = torch.empty((first + used, 2, 1, 16, 64), dtype=FP16, device=device)
    assert cache.numel() > 1 << 31
    cache[first:] = case.cache
    case.cache, case.blocks = cache, torch.where(case.blocks < 0, case.blocks, case.blocks + first)
    wanted = paged.dense(case, 0.125, None, None)
    assert paged.error(prefill(case, scale=0.125), wanted) < paged.TOLERANCE[FP16]
    case.q, case.lens = case.q[:1], [20]
    assert paged.error(decode(case, scale=0.125), wanted[:1]) < paged.TOLERANCE[FP16]
    k, v = (torch.ones(1, 1, 64, dtype=FP16, device=device) * i for i in (1, 2))
    slot = torch.tensor([len(cache) * 16 - 1], device=device)
    rotate_and_store(case.q, k, v, torch.empty_like(case.q).flatten(1), cache, slot)
    assert torch.equal(cache[-1, :, 0, -1], torch.cat((k[:, 0], v[:, 0])))
