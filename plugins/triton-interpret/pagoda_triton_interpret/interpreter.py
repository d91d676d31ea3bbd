"""Triton's interpreter turned on and made to agree with GPUs: as it comes it multiplies the bit
patterns of bfloat16 and truncates where hardware rounds.

After ``install`` products and casts of bfloat16 and fp8 are exact, arithmetic on them without a
cast to float32 is an error, and memory is watched (``sanitizer.py``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pagoda.platform import Unavailable


def turn_on() -> None:
    """Have this process interpret kernels.  Raises Unavailable when it has imported Triton to
    compile them, for Triton decides at import."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if "triton" in sys.modules:
        raise Unavailable(
            "this process has imported Triton to compile kernels, and cannot interpret them too",
            "set TRITON_INTERPRET=1 before it starts",
        )
    os.environ["TRITON_INTERPRET"] = "1"


def install() -> None:
    """Turn the interpreter on and patch it, for all of this process; once is enough."""
    turn_on()
    from triton.runtime import interpreter

    from pagoda_triton_interpret import replay, sanitizer, shortcuts

    builder = interpreter.InterpreterBuilder
    if getattr(builder, "is_faithful", False):
        return
    builder.is_faithful = True
    shortcuts.install(interpreter)
    _exact_products(interpreter)
    _exact_casts(interpreter)
    _no_narrow_arithmetic(interpreter)
    sanitizer.watch(interpreter)
    replay.install(interpreter)


@contextmanager
def overflow_checked() -> Iterator[None]:
    """Kernels that run inside raise where an int32 sum or product wraps.  Slower."""
    from triton.runtime import interpreter

    usual = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(debug=True)
    try:
        yield
    finally:
        interpreter.interpreter_builder.options = usual


def _torch_dtypes() -> dict[Any, torch.dtype]:
    import triton.language as tl

    return {
        tl.float32: torch.float32,
        tl.float16: torch.float16,
        tl.bfloat16: torch.bfloat16,
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e4b8: torch.float8_e4m3fnuz,
        tl.float8e5: torch.float8_e5m2,
        tl.float8e5b16: torch.float8_e5m2fnuz,
    }


def _narrow() -> set[Any]:
    """Types that the interpreter keeps as bit patterns."""
    return {kind for kind, dtype in _torch_dtypes().items() if dtype.itemsize < 2} | {
        kind for kind, dtype in _torch_dtypes().items() if dtype == torch.bfloat16
    }


def _converted(data: np.ndarray, source: torch.dtype, target: torch.dtype) -> np.ndarray:
    """Bit patterns of one type to those of another as torch rounds, which is as hardware does."""
    if (source, target) == (torch.bfloat16, torch.float32):
        return (data.astype(np.uint32) << 16).view(np.float32)
    raw = np.array(data, order="C").reshape(-1)
    found = torch.from_numpy(raw).view(source).to(target)
    words = {1: torch.uint8, 2: torch.uint16 if target == torch.bfloat16 else torch.float16}
    return found.view(words.get(target.itemsize, torch.float32)).numpy().reshape(data.shape)


def _exact_products(interpreter: Any) -> None:
    builder, dtypes, narrow = interpreter.InterpreterBuilder, _torch_dtypes(), _narrow()
    usual = builder.create_dot

    def widened(handle: Any) -> Any:
        kind = handle.dtype.scalar
        if kind not in narrow:
            return handle.data
        return _converted(handle.data, dtypes[kind], torch.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if narrow.isdisjoint((a.dtype.scalar, b.dtype.scalar)):
            return usual(self, a, b, d, *rest)
        product = np.matmul(widened(a), widened(b)).astype(d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    builder.create_dot = create_dot


def _exact_casts(interpreter: Any) -> None:
    builder, dtypes = interpreter.InterpreterBuilder, _torch_dtypes()
    usual_cast, usual_float = builder.cast_impl, builder.create_fp_to_fp

    def cast(value: Any, kind: Any, usual: Any) -> Any:
        source, target = dtypes.get(value.dtype.scalar), dtypes.get(kind.scalar)
        if source is None or target is None or source == target:
            return usual()
        return interpreter.TensorHandle(_converted(value.data, source, target), kind.scalar)

    def cast_impl(self: Any, value: Any, kind: Any) -> Any:
        return cast(value, kind, lambda: usual_cast(self, value, kind))

    def create_fp_to_fp(self: Any, value: Any, kind: Any, mode: Any) -> Any:
        return cast(value, kind, lambda: usual_float(self, value, kind, mode))

    builder.cast_impl, builder.create_fp_to_fp = cast_impl, create_fp_to_fp
    _know_every_fp8(interpreter)


def _know_every_fp8(interpreter: Any) -> None:
    """Casts to AMD's own fp8 types, which the interpreter has and does not name."""
    usual = interpreter._patch_lang_core

    def _patch_lang_core(lang: Any, scope: Any) -> None:
        usual(lang, scope)
        to_ir = lang.dtype.to_ir

        def whole_to_ir(self: Any, builder: Any) -> Any:
            if self.name in ("fp8e4b8", "fp8e5b16"):
                return getattr(builder, f"get_{self.name}_ty")()
            return to_ir(self, builder)

        scope.set_attr(lang.dtype, "to_ir", whole_to_ir)

    interpreter._patch_lang_core = _patch_lang_core


def _no_narrow_arithmetic(interpreter: Any) -> None:
    """Sums and the like of bit patterns are nonsense; GPUs without such instructions widen too."""
    builder, narrow = interpreter.InterpreterBuilder, _narrow()
    binary, unary, reduction = builder.binary_op, builder.unary_op, interpreter.ReduceOps.apply_impl

    def refuse(kind: Any, what: str) -> None:
        if kind in narrow:
            raise TypeError(f"{what} of {kind}: cast to float32 first")

    def binary_op(self: Any, left: Any, right: Any, op: Any) -> Any:
        if op not in (np.equal, np.not_equal):
            refuse(left.dtype.scalar, op.__name__)
        return binary(self, left, right, op)

    def unary_op(self: Any, value: Any, op: Any) -> Any:
        refuse(value.dtype.scalar, op.__name__)
        return unary(self, value, op)

    def apply_impl(self: Any, values: Any) -> Any:
        for value in values:
            refuse(value.dtype.scalar, "a reduction")
        return reduction(self, values)

    builder.binary_op, builder.unary_op = binary_op, unary_op
    interpreter.ReduceOps.apply_impl = apply_impl
