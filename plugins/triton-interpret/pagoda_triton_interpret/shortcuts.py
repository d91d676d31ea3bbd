"""What the interpreter works out anew for every operation, kept: several times as fast, with the
same results.  An operation costs tens of microseconds of Python, and a step has a million."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic


def install(interpreter: Any) -> None:
    """Patch Triton's interpreter and the types of its language."""
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        sanitize_overflow=False  # or every sum is computed twice, and looked at by nobody
    )
    _keep_types(interpreter)
    _make_handles_plainly(interpreter)
    _no_broadcast_of_like_shapes()
    _patch_the_language_once(interpreter)


def _keep_types(interpreter: Any) -> None:
    numpy_type, make_block = interpreter._get_np_dtype, tl.core.block_type.__init__
    numpy_types: dict[str, Any] = {}
    blocks: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    scalar = tl.core.tuple([]), tl.core.constexpr(1)

    def _get_np_dtype(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in numpy_types:
            numpy_types[name] = numpy_type(kind.scalar)
        return numpy_types[name]

    def make_kept_block(self: Any, element: Any, shape: Any) -> None:
        sizes = tuple([getattr(size, "value", size) for size in getattr(shape, "values", shape)])
        key = element.name, sizes
        if key not in blocks:
            make_block(self, element, shape)
            counts = tl.core.tuple([tl.core.constexpr(size) for size in sizes])
            self.shape_and_size = counts, tl.core.constexpr(self.numel)
            blocks[key] = self.__dict__
        self.__dict__ = blocks[key]  # nobody changes a type

    def make_tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = type.shape_and_size if type.is_block() else scalar

    interpreter._get_np_dtype = _get_np_dtype
    tl.core.block_type.__init__ = make_kept_block
    tl.core.tensor.__init__ = make_tensor


def _make_handles_plainly(interpreter: Any) -> None:
    """Without holding each array to its type's size, and without NumPy's detours."""
    handle, builder = interpreter.TensorHandle, interpreter.InterpreterBuilder

    def make_handle(self: Any, data: Any, dtype: Any) -> None:
        self.data, self.dtype, self.attr = data, dtype, {}

    def create_expand_dims(self: Any, arg: Any, axis: int) -> Any:
        shape = arg.data.shape
        return handle(arg.data.reshape((*shape[:axis], 1, *shape[axis:])), arg.dtype.scalar)

    def create_broadcast(self: Any, arg: Any, shape: Any) -> Any:
        data = np.empty(shape, arg.data.dtype)
        data[...] = arg.data
        return handle(data, arg.dtype.scalar)

    handle.__init__ = make_handle
    builder.create_expand_dims, builder.create_broadcast = create_expand_dims, create_broadcast


def _no_broadcast_of_like_shapes() -> None:
    usual = TritonSemantic.broadcast_impl_value

    def broadcast_impl_value(self: Any, left: Any, right: Any) -> Any:
        if left.type.is_block() and right.type.is_block():
            if left.type.shape.values == right.type.shape.values:
                return left, right
        elif not left.type.is_block() and not right.type.is_block():
            return left, right
        return usual(self, left, right)

    TritonSemantic.broadcast_impl_value = broadcast_impl_value


def _patch_the_language_once(interpreter: Any) -> None:
    """The interpreter patches ``triton.language`` for every launch and takes it back: nobody in
    this process wants it as it was."""
    usual = interpreter._patch_lang

    def unless_done(function: Any) -> Any:
        if tl.core.is_builtin(tl.load) or tl.core.is_builtin(tl.core.load):
            usual(function)
        return interpreter._LangPatchScope()  # nothing to take back

    interpreter._patch_lang = unless_done
