"""The small fused kernels against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pagoda_kernels_triton.activation import silu_and_mul
from pagoda_kernels_triton.greedy import take_greedy
from pagoda_kernels_triton.inputs import decode_inputs
from pagoda_kernels_triton.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from pagoda_kernels_triton.one_row import one_row_linear
from pagoda_kernels_triton.store import rotate_and_store

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> bool:
    difference = (found.float() - wanted.float()).norm() / wanted.float().norm()
    return bool(difference < TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [48, 100, 1024])
def test_norms(dtype: torch.dtype, size: int, device: str) -> None:
    torch.manual_seed(0)
    x, residual = (torch.randn(5, size, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(size, device=device).to(dtype)
    wanted = F.rms_norm(x.float(), (size,), weight.float(), 1e-5)
    assert close(rms_norm(x, weight, 1e-5), wanted, dtype)
    total = x + residual
    found, kept = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(kept, total)
    assert close(found, F.rms_norm(total.float(), (size,), weight.float(), 1e-5), dtype)
    bias = torch.randn(size, device=device).to(dtype)
    wanted = F.layer_norm(x.float(), (size,), weight.float(), bias.float(), 1e-5)
    assert close(layer_norm(x, weight, bias, 1e-5), wanted, dtype)
    found, kept = add_layer_norm(x, residual.copy_(total - x), weight, bias, 1e-5)
    assert torch.equal(kept, x + (total - x))
    wanted = F.layer_norm(kept.float(), (size,), weight.float(), bias.float(), 1e-5)
    assert close(found, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("inputs", "outputs", "norm", "add", "activation"),
    [
        (48, 30, None, False, None),
        (48, 30, "layer", True, "relu"),
        (2048, 6, "rms", True, "silu_and_mul"),
        (1200, 14, "rms", False, None),
        (1200, 14, "layer", False, "silu_and_mul"),
    ],
)
def test_one_row(
    dtype: torch.dtype,
    inputs: int,
    outputs: int,
    norm: str | None,
    add: bool,
    activation: str | None,
    device: str,
) -> None:
    torch.manual_seed(0)
    x, residual, gain, shift = (
        torch.randn(1, inputs, device=device).to(dtype) + 0.5 for _ in range(4)
    )
    weight = torch.randn(outputs, inputs, device=device).to(dtype) / inputs**0.5
    bias = torch.randn(outputs, device=device).to(dtype) if outputs != 6 else None
    total = x + residual if add else x
    y, gain, shift = total.float(), gain[0], shift[0]
    if norm == "rms":
        y = F.rms_norm(y, (inputs,), gain.float(), 1e-5)
    elif norm == "layer":
        y = F.layer_norm(y, (inputs,), gain.float(), shift.float(), 1e-5)
    y = F.linear(y, weight.float(), None if bias is None else bias.float())
    if activation == "relu":
        y = y.relu()
    elif activation:
        y = F.silu(y[:, : outputs // 2]) * y[:, outputs // 2 :]
    how = (gain, shift if norm == "layer" else None, 1e-5) if norm else None
    found, kept = one_row_linear(x, weight, bias, residual if add else None, how, activation)
    assert torch.equal(kept, total)
    assert found.shape == y.shape and close(found, y, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [5, 1024, 1500])
def test_silu(dtype: torch.dtype, size: int, device: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2 * size, device=device).to(dtype) * 3
    wanted = F.silu(x[:, :size].float()) * x[:, size:].float()
    assert close(silu_and_mul(x), wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "size"), [(4, 2, 64), (3, 1, 48), (5, 5, 128)])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("rotate", [True, False])
def test_rotate_and_store(
    dtype: torch.dtype, heads: int, kv: int, size: int, norm: bool, rotate: bool, device: str
) -> None:
    torch.manual_seed(0)
    slots = [37, 0, -1, 16, 15]
    tokens = len(slots)
    qkv = torch.randn(tokens, heads + 2 * kv, size, device=device).to(dtype)
    q, k, v = qkv[:, :heads].clone(), qkv[:, heads:-kv].clone(), qkv[:, -kv:].clone()
    weights = [torch.randn(size, device=device).to(dtype) for _ in range(2)]
    table = torch.randn(tokens, 2, size, device=device).to(dtype)
    table[:, 0, size // 2 :] = table[:, 0, : size // 2]
    table[:, 1, : size // 2] = -table[:, 1, size // 2 :]
    cos, sin = table.split(1, 1)

    def reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = x.float()
        if norm:
            x = F.rms_norm(x, (size,), weight.float(), 1e-6)
        if rotate:
            x = x * cos.float() + x.roll(size // 2, -1) * sin.float()
        return x

    cache = torch.full((4, 2, kv, 16, size), float("nan"), device=device).to(dtype)
    rotate_and_store(
        qkv[:, :heads],
        qkv[:, heads:-kv],
        qkv[:, -kv:],
        qkv.view(tokens, -1)[:, : heads * size],
        cache,
        torch.tensor(slots, device=device),
        (cos, sin) if rotate else None,
        (weights[0], weights[1], 1e-6) if norm else None,
    )
    assert close(qkv[:, :heads], reference(q, weights[0]), dtype)
    kept = [(i, slot) for i, slot in enumerate(slots) if slot >= 0]
    for i, slot in kept:
        assert close(cache[slot // 16, 0, :, slot % 16], reference(k, weights[1])[i], dtype)
        assert torch.equal(cache[slot // 16, 1, :, slot % 16], v[i])
    assert int(torch.isfinite(cache).sum()) == 2 * kv * size * len(kept)


def test_decode_inputs(device: str) -> None:
    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    last = torch.tensor([100, 101, 102, 103], device=device)
    token_ids, positions, cache_slots = (
        torch.zeros(4, dtype=torch.int64, device=device) for _ in "abc"
    )
    lens = ints(9, 9, 9, 9)
    decode_inputs(
        *(ints(7, -1, -1, 5), ints(0, 2, 3, 1), ints(4, 0, -1, 9), ints(0, 2, 0, 3)),
        *(ints(8, 6, 5, 2, 1, 3), last, 4, token_ids, positions, lens, cache_slots),
    )
    assert token_ids.tolist()[:2] == [7, 102] and token_ids[3] == 5
    assert positions.tolist() == [4, 0, 0, 9]
    assert lens.tolist() == [5, 1, 0, 10]
    assert cache_slots.tolist() == [6 * 4, 5 * 4, -1, 3 * 4 + 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_takes_the_lowest_of_equals(dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 9000, device=device).to(dtype)
    logits[0, [5000, 8999, 77]] = 50.0
    logits[1] = float("-inf")
    logits[1, 8998] = -1e4
    logits[2] = float("nan")
    last = torch.zeros(6, dtype=torch.int64, device=device)
    tokens = torch.full((4,), -1, device=device)
    slots = torch.tensor([5, 1, 0, 3], dtype=torch.int32, device=device)
    take_greedy(logits, slots, last, tokens)
    wanted = [77, 8998, 0, int(logits[3].float().argmax())]
    assert tokens.tolist() == wanted
    assert last.tolist() == [0, 8998, 0, wanted[3], 0, 77]
