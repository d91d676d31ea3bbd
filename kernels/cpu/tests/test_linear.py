"""Products with packed weights against float64, on every level that this CPU runs."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

SEED = 20261
SHAPES = [(48, 64), (100, 172), (896, 896), (17, 1000), (1, 5), (352, 1300)]  # outputs, inputs
ROWS = [1, 2, 3, 5, 6, 7, 16, 33, 200]
FORMATS = ["float32", "bfloat16", "float16", "int8", "int4"]
KEPT = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
}


GENERATOR = torch.Generator()


def random(*shape: int, gain: float = 1.0) -> Any:
    return torch.randn(*shape, generator=GENERATOR) * gain


@pytest.fixture(autouse=True)
def seeded() -> None:
    print(f"seed {SEED}")
    GENERATOR.manual_seed(SEED)


@pytest.fixture
def level(native: Any) -> str:
    return str(native.__name__.rpartition("_")[2])


def matrix(native: Any, weight: Any, name: str) -> tuple[Any, Any]:
    """The packed weight, and in float64 what it stands for."""
    weight = weight.to(KEPT.get(name, torch.float32))
    packed = native.Matrix([weight], name)
    kept = torch.full((len(weight), weight.shape[1]), float("nan"))
    packed.take_rows(torch.arange(len(weight)), kept)
    return packed, kept.double()


def largest_error(found: Any, expected: Any) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def allowed(name: str, dtype: Any, level: str) -> float:
    """Of the largest result: the sums are float32; rows become bf16 or whole numbers on the way."""
    if dtype != torch.float32 or (name == "bfloat16" and level in ("avx512", "amx")):
        return 2e-2
    return {"int4": 2e-2, "int8": 2e-2 if level in ("avx512", "amx") else 2e-4}.get(name, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_products(native: Any, level: str, name: str, dtype: Any) -> None:
    for threads, shape in zip((1, 2, 3, 4, 1, 8), SHAPES, strict=True):
        native.set_num_threads(threads)
        packed, kept = matrix(native, random(*shape, gain=0.05), name)
        bias = random(shape[0]).to(dtype)
        for rows in ROWS:
            x = random(rows, shape[1]).to(dtype)
            out = torch.full((rows, shape[0]), float("nan"), dtype=dtype)
            packed.multiply(x, out, bias)
            error = largest_error(out, x.double() @ kept.T + bias.double())
            assert error < allowed(name, dtype, level), (shape, rows, error)
    native.set_num_threads(1)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_and_threads_change_nothing(native: Any, level: str, name: str) -> None:
    """Bit for bit, where one kind of instruction serves all numbers of rows."""
    packed, _ = matrix(native, random(352, 1300, gain=0.05), name)
    x, found = random(40, 1300), []
    for threads in range(1, 9):
        native.set_num_threads(threads)
        out = torch.empty(40, 352)
        packed.multiply(x, out)
        found.append(out)
    native.set_num_threads(1)
    assert all(torch.equal(out, found[0]) for out in found)
    for rows in (1, 5, 13, 23, 26):
        few = torch.empty(rows, 352)
        packed.multiply(x[7 : 7 + rows], few)
        if level == "amx" and name == "bfloat16":
            assert largest_error(few, found[0][7 : 7 + rows].double()) < 2e-2
        else:
            assert torch.equal(few, found[0][7 : 7 + rows]), rows


def rare(weight: Any, how: str) -> Any:
    """bfloat16 numbers of other magnitudes than most of their row."""
    if how == "some tiny":
        tiny = torch.rand(weight.shape, generator=GENERATOR) < 3e-4
        weight = torch.where(tiny, weight * 2.0**-30, weight)
        weight[3, 5], weight[4], weight[7] = 0, 0, weight[7] * 2.0**100
        weight[9] *= 2.0**-118
    elif how == "many zeros":
        weight = torch.where(torch.rand(weight.shape, generator=GENERATOR) < 0.1, 0, weight)
    elif how == "not finite":
        weight[3, 5], weight[50, 0] = float("inf"), float("nan")
    return weight.bfloat16()


@pytest.mark.parametrize("how", ["all alike", "some tiny", "many zeros", "not finite"])
def test_bfloat16_keeps_its_numbers(native: Any, level: str, how: str) -> None:
    """In 12 bits where that is faster and they fit: the same numbers, and the same results."""
    for shape in ((128, 64), (256, 896), (384, 1300), (128, 4864), (64, 896)):
        weight = rare(random(*shape, gain=0.05), how)
        packed = native.Matrix([weight], "bfloat16")
        kept = torch.full(shape, float("nan"), dtype=torch.bfloat16)
        packed.take_rows(torch.arange(shape[0]), kept)
        assert torch.equal(kept.nan_to_num(-1), weight.nan_to_num(-1)), shape
        short = level in ("avx2", "emulated")
        if how == "all alike" or not short:
            assert (packed.num_bytes < weight.numel() * 1.7) == short, shape
        if how == "not finite":
            continue
        for threads, rows in ((1, 1), (2, 2), (3, 3), (8, 1), (1, 8), (2, 40), (1, 530)):
            native.set_num_threads(threads)
            x, out = random(rows, shape[1]).bfloat16(), torch.full((rows, shape[0]), float("nan"))
            packed.multiply(x.float(), out)
            x, whole = x.double(), weight.double()
            error = (out - x @ whole.T).abs() / (x.abs() @ whole.abs().T + 1e-30)
            assert float(error.max()) < 1e-5, (shape, rows, float(error.max()))
    native.set_num_threads(1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates(native: Any, activation: str) -> None:
    act = ACTIVATIONS[activation]
    for width, inputs, rows in ((176, 64, 1), (176, 64, 7), (4864, 896, 20), (16, 64, 3)):
        packed, kept = matrix(native, random(2 * width, inputs, gain=0.2), "float32")
        bias, x = random(2 * width), random(rows, inputs)
        gate, up = (x.double() @ kept.T + bias.double()).chunk(2, -1)
        out = torch.empty(rows, width)
        packed.multiply(x, out, bias, activation, True)
        assert largest_error(out, act(gate) * up) < 1e-5
        whole = torch.empty(rows, 2 * width)
        packed.multiply(x, whole, bias, activation)
        assert largest_error(whole, act(torch.cat((gate, up), -1))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norms(native: Any, dtype: Any) -> None:
    for rows, size in ((1, 64), (3, 100), (50, 896)):
        x, residual, gain = (random(*s).to(dtype) for s in ((rows, size), (rows, size), (size,)))
        packed, kept = matrix(native, random(32, size, gain=0.1), "float32")
        for start in (residual, None):
            total = x if start is None else start + x
            normed = torch.nn.functional.rms_norm(total.float(), (size,), gain.float(), 1e-6)
            kept_sum, out = None if start is None else start.clone(), torch.empty_like(x)
            native.rms_norm(x, kept_sum, gain, 1e-6, out)
            limit = 1e-5 if dtype == torch.float32 else 1e-2
            assert largest_error(out, normed.double()) < limit
            assert kept_sum is None or torch.equal(kept_sum, total)
            kept_sum = None if start is None else start.clone()
            product = torch.empty(rows, 32, dtype=dtype)
            packed.multiply_normed(x, kept_sum, gain, 1e-6, product)
            assert largest_error(product, normed.double() @ kept.T) < limit


def test_rounding(native: Any) -> None:
    weight = random(64, 1024, gain=0.05)
    for name, limit in (("int8", 0.01), ("int4", 0.13)):
        _, kept = matrix(native, weight, name)
        error = float((kept - weight).square().mean().sqrt() / weight.square().mean().sqrt())
        assert error < limit, (name, error)


def test_parts_are_one_matrix(native: Any) -> None:
    """Cut at any row, in any plain dtype that holds the numbers, wherever they lie."""
    whole, x = random(70, 96).bfloat16(), random(5, 96)
    wide = torch.full((30, 200), float("nan"), dtype=torch.float32)
    wide[:, :96] = whole[3:33].float()
    parts = [whole[:3], wide[:, :96], whole[33:34], whole[34:]]
    for name in KEPT | {"int8": None, "int4": None}:
        outs = [torch.empty(5, 70), torch.empty(5, 70)]
        for given, out in zip(([whole], parts), outs, strict=True):
            native.Matrix(given, name).multiply(x, out)
        assert torch.equal(*outs), name


def test_what_is_refused(native: Any) -> None:
    packed = native.Matrix([random(20, 8)], "float32")
    out = torch.empty(2, 20)
    for wrong in (
        lambda: native.Matrix([random(20, 8)], "int3"),
        lambda: native.Matrix([torch.zeros(4, 4, dtype=torch.int32)], "int8"),
        lambda: native.Matrix([], "int8"),
        lambda: native.Matrix([random(4, 8), random(4, 9)], "int8"),
        lambda: packed.multiply(random(2, 9), out),
        lambda: packed.multiply(random(3, 8), out),
        lambda: packed.multiply(random(2, 8).half(), out),
        lambda: packed.multiply(random(2, 8), out, None, "swoosh"),
        lambda: packed.multiply(random(2, 8), torch.empty(2, 10), None, "silu", True),
        lambda: packed.take_rows(torch.tensor([20]), torch.empty(1, 8)),
    ):
        with pytest.raises(ValueError):
            wrong()
