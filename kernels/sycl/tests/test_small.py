"""Norms, rotation and activation against float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pagoda_kernels_sycl import small

ALLOWED = {torch.float32: 1e-5, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    error = (found.float() - wanted).abs() / wanted.abs().clamp(min=1)
    return float(error.max()) <= ALLOWED[found.dtype]


@pytest.mark.parametrize("dtype", list(ALLOWED))
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (3, 96), (17, 128), (200, 896), (2, 5000)])
def test_norm_and_activation(
    device: torch.device, seed: int, dtype: torch.dtype, rows: int, size: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, 3 * size, generator=random).to(dtype)
    x, other = wide[:, :size], wide[:, size : 2 * size].contiguous()  # x: rows with a stride
    weight = torch.randn(size, generator=random).to(dtype)
    norm = F.rms_norm(x.float(), (size,), weight.float(), 1e-5)
    assert close(small.rms_norm(x, weight, 1e-5), norm)
    total = (x.float() + other.float()).to(dtype)
    found, kept = small.add_rms_norm(x, other, weight, 1e-5)
    assert kept is other and torch.equal(kept, total)
    assert close(found, F.rms_norm(total.float(), (size,), weight.float(), 1e-5))
    gated = wide[:, : 2 * size]
    gate, up = gated.float().chunk(2, -1)
    assert close(small.silu_and_mul(gated), F.silu(gate) * up)


@pytest.mark.parametrize("dtype", list(ALLOWED))
@pytest.mark.parametrize(("heads", "size", "part"), [(1, 64, 64), (8, 128, 128), (4, 80, 32)])
def test_rotary(
    device: torch.device, seed: int, dtype: torch.dtype, heads: int, size: int, part: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    whole = torch.randn(7, heads + 2, size, generator=random).to(dtype)
    angle = torch.rand(7, 1, part // 2, generator=random) * 6
    cos = torch.cat([angle.cos(), angle.cos()], -1).to(dtype)
    sin = torch.cat([-angle.sin(), angle.sin()], -1).to(dtype)
    before = whole.clone()
    x = whole[:, :heads]
    turned = before[:, :heads, :part].float()
    wanted = turned * cos.float() + turned.roll(part // 2, -1) * sin.float()
    assert small.rotary(x, cos, sin) is x
    assert close(x[..., :part], wanted)
    assert torch.equal(whole[:, heads:], before[:, heads:])
    assert torch.equal(x[..., part:], before[:, :heads, part:])


def test_no_rows(device: torch.device) -> None:
    none = torch.empty(0, 64)
    assert small.rms_norm(none, torch.ones(64), 1e-5).shape == (0, 64)
    assert small.silu_and_mul(none).shape == (0, 32)
