"""A shim: NumPy in place of the part of AWS's NKI that our kernels use, where NKI is not installed.

It follows the published meaning and limits of those names and refuses what they forbid.  It is not
AWS's simulator: it says nothing of the compiler, of capacity beyond single tiles, or of speed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:  # then float32 alone is run
    bfloat16 = None

PARTITIONS, STATIONARY, MOVING = 128, 128, 512
SBUF_BYTES, PSUM_BYTES, BANK_BYTES = 192 << 10, 16 << 10, 2 << 10  # a partition
HBM = ("hbm", "shared_hbm", "private_hbm")


class ShimError(Exception):
    """The kernel did what NKI does not allow."""


def need(condition: Any, what: str) -> None:
    if not condition:
        raise ShimError(what)


class Tensor:
    """A view of memory in one of the chip's places."""

    def __init__(self, array: np.ndarray, buffer: str):
        self.array, self.buffer = array, buffer

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def __getitem__(self, key: Any) -> Tensor:
        keys = key if isinstance(key, tuple) else (key,)
        for one, size in zip(keys, self.shape, strict=False):
            last = one.stop if isinstance(one, slice) else one + 1
            first = one.start if isinstance(one, slice) else one
            need((first or 0) >= 0 and (last is None or last <= size), f"index {one} of {size}")
        return Tensor(self.array[key], self.buffer)

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int = 0,
        vector_offset: Tensor | None = None,
        indirect_dim: int = 0,
    ) -> Gathered:
        """Only what we use: rows of an HBM tensor, chosen by an index for each partition."""
        need(vector_offset is not None and indirect_dim == 0, "shim: gathers of rows only")
        assert vector_offset is not None
        (step, count), (inner, width) = pattern
        row = int(np.prod(self.shape[1:]))
        need(self.buffer in HBM, "a gather's source must be in HBM")
        need(step == row and inner == 1 and offset + width <= row, f"pattern {pattern}")
        need(vector_offset.buffer == "sbuf", "a gather's index must be in SBUF")
        need(vector_offset.dtype in (np.int32, np.uint32), "a gather's index must be 32-bit")
        need(vector_offset.shape == (count, 1), f"an index for each of {count} partitions")
        index = vector_offset.array[:, 0]
        need(((index >= 0) & (index < self.shape[0])).all(), "index out of bounds")
        return Gathered(self.array.reshape(-1, row)[index, offset : offset + width])


class Gathered(Tensor):
    """The rows that a gather would read."""

    def __init__(self, array: np.ndarray):
        super().__init__(array, "hbm")


def ndarray(shape: Sequence[int], dtype: Any, buffer: str = "sbuf") -> Tensor:
    """Unwritten memory: NaN, or a number that no index may be."""
    dtype = np.dtype(dtype)
    if buffer not in HBM:
        need(shape[0] <= PARTITIONS, f"{shape[0]} partitions, {PARTITIONS} is the most")
        room = PSUM_BYTES if buffer == "psum" else SBUF_BYTES
        need(np.prod(shape[1:]) * dtype.itemsize <= room, f"{buffer}: {shape} is too large")
    junk: Any = np.iinfo(dtype).max if dtype.kind in "iu" else np.nan
    return Tensor(np.full(shape, junk, dtype), buffer)


def read(x: Any) -> np.ndarray:
    return x.array.astype(np.float32) if isinstance(x, Tensor) else np.float32(x)


def write(dst: Tensor, values: np.ndarray) -> None:
    need(not isinstance(dst, Gathered), "shim: scatters are not written")
    with np.errstate(over="ignore", invalid="ignore"):
        dst.array[...] = values.reshape(dst.shape).astype(dst.dtype)


def on_chip(*tensors: Any) -> None:
    for tensor in tensors:
        need(tensor.buffer in ("sbuf", "psum"), f"an operand is in {tensor.buffer}")


def columns(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape[1:]))


def alike(*tensors: Tensor) -> None:
    on_chip(*tensors)
    sizes = {(tensor.shape[0], columns(tensor)) for tensor in tensors}
    need(len(sizes) == 1, f"shapes differ: {sizes}")


def dma_copy(dst: Tensor, src: Tensor) -> None:
    need("psum" not in (dst.buffer, src.buffer), "DMA does not reach PSUM")
    need(dst.shape == src.shape, f"DMA of {src.shape} to {dst.shape}")
    need(dst.dtype == src.dtype, f"DMA of {src.dtype} to {dst.dtype}")
    write(dst, src.array.copy())


def tensor_copy(dst: Tensor, src: Tensor) -> None:
    alike(dst, src)
    write(dst, src.array.copy())


def memset(dst: Tensor, value: float) -> None:
    on_chip(dst)
    write(dst, np.full(dst.shape, value))


def iota(
    dst: Tensor, pattern: Sequence[Sequence[int]], offset: int, channel_multiplier: int = 0
) -> None:
    ((step, count),) = pattern
    need(dst.buffer == "sbuf", "iota writes to SBUF")
    need(dst.dtype == np.int32, "shim: iota of int32 only")
    need(columns(dst) == count, f"iota of {count} into {dst.shape}")
    rows = np.arange(dst.shape[0])[:, None] * channel_multiplier
    write(dst, offset + rows + np.arange(count) * step)


def nc_transpose(dst: Tensor, data: Tensor) -> None:
    need(data.buffer == "sbuf" and dst.buffer == "psum", "transposes go from SBUF to PSUM")
    need(dst.dtype == data.dtype, "a transpose keeps the dtype")
    need(data.shape[0] <= 128 and columns(data) <= 128, f"transpose of {data.shape}")
    need(dst.shape == (columns(data), data.shape[0]), f"transpose of {data.shape} to {dst.shape}")
    write(dst, data.array.reshape(data.shape[0], -1).T.copy())


def nc_matmul(dst: Tensor, stationary: Tensor, moving: Tensor, accumulate: bool = False) -> None:
    places = (stationary.buffer, moving.buffer, dst.buffer)
    need(places == ("sbuf", "sbuf", "psum"), f"products go from SBUF to PSUM, not {places}")
    need(dst.dtype == np.float32, "products are float32")
    full = {tensor.dtype == np.float32 for tensor in (stationary, moving)}
    need(len(full) == 1, "float32 by another dtype")
    depth, rows, width = stationary.shape[0], columns(stationary), columns(moving)
    need(moving.shape[0] == depth, f"depths {depth} and {moving.shape[0]}")
    need(rows <= STATIONARY and width <= MOVING, f"a product of {rows} by {width}")
    need(width * 4 <= BANK_BYTES, "a product crosses PSUM banks")
    need(dst.shape[0] == rows and columns(dst) == width, f"{rows} by {width} into {dst.shape}")
    found = read(stationary).reshape(depth, rows).T @ read(moving).reshape(depth, width)
    write(dst, found + (read(dst).reshape(rows, width) if accumulate else 0))


BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
UNARY: dict[str, Callable[..., Any]] = {"exp": np.exp, "tanh": np.tanh, "copy": np.positive}


def tensor_tensor(dst: Tensor, data1: Tensor, data2: Tensor, op: str) -> None:
    alike(dst, data1, data2)
    need((data1.buffer, data2.buffer) != ("psum", "psum"), "both operands in PSUM")
    write(dst, BINARY[op](read(data1), read(data2).reshape(data1.shape)))


def tensor_scalar(
    dst: Tensor,
    data: Tensor,
    op0: str,
    operand0: Any,
    reverse0: bool = False,
    op1: str | None = None,
    operand1: Any = None,
    reverse1: bool = False,
) -> None:
    alike(dst, data)
    found = read(data).reshape(data.shape[0], -1)
    for op, operand, reverse in ((op0, operand0, reverse0), (op1, operand1, reverse1)):
        if op is None:
            continue
        if isinstance(operand, Tensor):
            on_chip(operand)
            need(operand.dtype == np.float32, "operands of a row are float32")
            need(operand.shape == (data.shape[0], 1), f"operand {operand.shape}")
        value = read(operand)
        found = BINARY[op](value, found) if reverse else BINARY[op](found, value)
    write(dst, found)


def tensor_reduce(dst: Tensor, op: str, data: Tensor, axis: int) -> None:
    on_chip(dst, data)
    need(axis == data.array.ndim - 1 and axis > 0, "only free dimensions are reduced")
    need(dst.shape == (*data.shape[:-1], 1), f"{data.shape} reduced into {dst.shape}")
    write(dst, BINARY[op].reduce(read(data), axis=axis))  # type: ignore[attr-defined]


def activation(
    dst: Tensor,
    op: str,
    data: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    reduce_op: str | None = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: str = "idle",
) -> None:
    alike(dst, data)
    if bias is not None:
        on_chip(bias)
        need(bias.dtype == np.float32 and bias.shape == (data.shape[0], 1), "bias of a row")
    with np.errstate(over="ignore", under="ignore"):
        found = UNARY[op](read(data) * scale + (0 if bias is None else read(bias)))
    write(dst, found)
    if reduce_res is not None:
        need(reduce_op == "add" and reduce_cmd == "reset_reduce", "shim: sums from 0 only")
        need(reduce_res.shape == (data.shape[0], 1), f"sums into {reduce_res.shape}")
        write(reduce_res, found.sum(1, keepdims=True))


def reciprocal(dst: Tensor, data: Tensor) -> None:
    alike(dst, data)
    with np.errstate(divide="ignore"):
        write(dst, 1 / read(data))


def simulate(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """As ``nki.simulate``: the kernel on NumPy arrays."""

    def run(*arrays: Any, **options: Any) -> np.ndarray:
        inputs = [Tensor(x.copy(), "hbm") if isinstance(x, np.ndarray) else x for x in arrays]
        found = kernel(*inputs, **options)
        need(found.buffer in HBM, "a kernel returns a tensor in HBM")
        return found.array

    return run


def install() -> None:
    """Become ``nki``, ``nki.language`` and ``nki.isa``."""
    nki, language, isa = (types.ModuleType(n) for n in ("nki", "nki.language", "nki.isa"))
    for function in (
        *(dma_copy, tensor_copy, memset, iota, nc_transpose, nc_matmul, tensor_tensor),
        *(tensor_scalar, tensor_reduce, activation, reciprocal),
    ):
        setattr(isa, function.__name__, function)
    vars(isa)["reduce_cmd"] = types.SimpleNamespace(idle="idle", reset_reduce="reset_reduce")
    names: dict[str, Any] = {name: name for name in (*UNARY, *BINARY, "sbuf", "psum", *HBM)}
    dtypes = {"bfloat16": bfloat16, "float32": np.float32, "int32": np.int32}
    ranges = dict.fromkeys(("affine_range", "sequential_range", "static_range"), range)
    vars(language).update(names, **dtypes, **ranges, ndarray=ndarray)
    vars(language)["ds"] = lambda start, size: slice(start, start + size)
    vars(nki).update(language=language, isa=isa, simulate=simulate, is_pagoda_shim=True)
    vars(nki)["jit"] = lambda function: function
    sys.modules.update({"nki": nki, "nki.language": language, "nki.isa": isa})
