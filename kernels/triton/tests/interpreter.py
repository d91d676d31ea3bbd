"""Triton's interpreter made faithful, for tests: as it comes it multiplies the bit patterns of
bfloat16, truncates where a GPU rounds, and reads whatever an address points at.

After ``install`` bfloat16 products and casts are exact, bfloat16 arithmetic without a cast is an
error, and so are active lanes outside of the arguments' memory and stores of two programs to one
place."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

TORCH = {tl.bfloat16: torch.bfloat16, tl.float16: torch.float16, tl.float32: torch.float32}
RAW = {1: torch.uint8, 2: torch.uint16, 4: torch.float32}
shared_places: set[int] = set()  # addresses that several programs may store to


class OutOfBounds(Exception):
    """An active lane is outside of every argument."""


class WriteRace(Exception):
    """Two programs store to one place."""


class Watch:
    """The launch under way: its arguments' address ranges, and who stored where."""

    ranges = np.zeros((0, 2), np.uint64)
    owners: ClassVar[dict[int, Any]] = {}


def install() -> None:
    """Patch the interpreter of this process; once is enough."""
    builder = interpreter.InterpreterBuilder
    if getattr(builder, "is_faithful", False):
        return
    builder.is_faithful = True
    _exact_bfloat16(builder)
    _checked_memory(builder)


def _widened(handle: Any) -> np.ndarray:
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data


def _exact_bfloat16(builder: Any) -> None:
    dot, binary, unary, cast = (
        builder.create_dot,
        builder.binary_op,
        builder.unary_op,
        builder.cast_impl,
    )

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if tl.bfloat16 in (a.dtype.scalar, b.dtype.scalar):
            product = np.matmul(_widened(a), _widened(b)).astype(d.data.dtype)
            return interpreter.TensorHandle(product + d.data, d.dtype.scalar)
        return dot(self, a, b, d, *rest)

    def binary_op(self: Any, left: Any, right: Any, op: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16 and op not in (np.equal, np.not_equal):
            raise TypeError(f"{op.__name__} of bfloat16: cast to float32 first")
        return binary(self, left, right, op)

    def unary_op(self: Any, value: Any, op: Any) -> Any:
        if value.dtype.scalar == tl.bfloat16:
            raise TypeError(f"{op.__name__} of bfloat16: cast to float32 first")
        return unary(self, value, op)

    def cast_impl(self: Any, value: Any, kind: Any) -> Any:
        source, target = value.dtype.scalar, kind.scalar
        if source in TORCH and target in TORCH and source != target:
            return _cast(value, source, target)
        return cast(self, value, kind)

    def create_fp_to_fp(self: Any, value: Any, kind: Any, rounding_mode: Any) -> Any:
        return _cast(value, value.dtype.scalar, kind.scalar)

    for function in (create_dot, binary_op, unary_op, cast_impl, create_fp_to_fp):
        setattr(builder, function.__name__, function)


def _cast(value: Any, source: Any, target: Any) -> Any:
    raw = np.array(value.data, order="C")
    found = torch.from_numpy(raw.reshape(-1)).view(TORCH[source]).to(TORCH[target])
    if target != tl.float16:
        found = found.view(RAW[found.element_size()])
    return interpreter.TensorHandle(found.numpy().reshape(raw.shape), target)


def _checked_memory(builder: Any) -> None:
    load, store = builder.create_masked_load, builder.create_masked_store

    def create_masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        _check(ptrs, mask, "load")
        return load(self, ptrs, mask, *rest, **named)

    def create_masked_store(
        self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any
    ) -> Any:
        _check(ptrs, mask, "store")
        return store(self, ptrs, value, mask, *rest, **named)

    builder.create_masked_load = create_masked_load
    builder.create_masked_store = create_masked_store
    prepare = interpreter.GridExecutor._init_args_hst

    def _init_args_hst(self: Any, args: Any, kwargs: Any) -> Any:
        made = prepare(self, args, kwargs)
        ranges = []
        for value in [*made[0], *made[1].values()]:
            tensor = interpreter._unwrap_tensor(value)
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                pairs = zip(tensor.shape, tensor.stride(), strict=True)
                spanned = sum((n - 1) * stride for n, stride in pairs) + 1
                start = tensor.data_ptr()
                ranges.append((start, start + spanned * tensor.element_size()))
        Watch.ranges, Watch.owners = np.array(ranges, np.uint64).reshape(-1, 2), {}
        return made

    interpreter.GridExecutor._init_args_hst = _init_args_hst


def _check(ptrs: Any, mask: Any, what: str) -> None:
    size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
    live = np.broadcast_to(mask.data, np.shape(ptrs.data)).reshape(-1).astype(bool)
    places = np.asarray(ptrs.data).reshape(-1)[live].astype(np.uint64)
    inside = np.zeros(places.shape, bool)
    for low, high in Watch.ranges:
        inside |= (places >= low) & (places + np.uint64(size) <= high)
    if not inside.all():
        program = interpreter.interpreter_builder.grid_idx
        raise OutOfBounds(f"{what}: {(~inside).sum()} lanes of program {program}")
    if what == "store":
        me = interpreter.interpreter_builder.grid_idx
        for place in places.tolist():
            other = Watch.owners.setdefault(place, me)
            if other != me and place not in shared_places:
                raise WriteRace(f"programs {other} and {me}")
