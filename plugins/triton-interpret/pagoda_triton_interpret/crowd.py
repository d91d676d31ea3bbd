"""Programs that do the same, done at once: a value in which they differ has an axis in front, one
entry a program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import triton.language as tl

if TYPE_CHECKING:
    from pagoda_triton_interpret.replay import Line

MANY = "many"  # marks the handles with that axis
SPECIAL = ("gather", "histogram", "cat", "join", "split", "print")
"""Operations that know of shapes and are not done for many here."""

Function = Callable[..., Any]


def fits(name: str) -> bool:
    """Whether a builder's operation can be done for many programs."""
    return not any(name.endswith(f"_{word}") for word in SPECIAL)


class Crowd:
    """Some programs of a launch, and the values they have so far."""

    def __init__(self, interpreter: Any, programs: Any, values: list[Any]):
        self.interpreter, self.builder = interpreter, interpreter.interpreter_builder
        self.handle = interpreter.TensorHandle
        self.programs = programs  # [P, 3]
        self.values = values

    def run(self, line: Line) -> None:
        """Do what was kept, for every program."""
        self.builder.grid_idx = tuple(self.programs.T)
        self.values += line.values
        if len(line.differs) < len(line.calls):
            self._find_out(line)
        values = self.values
        for (function, for_many, inputs, place), differ in zip(
            line.calls, line.differs, strict=True
        ):
            given = [values[i] for i in inputs]
            if not differ:
                values[place] = function(*given)
                continue
            result = function(*given) if for_many is None else for_many(self, function, *given)
            if result is not None:
                result.attr[MANY] = True
            values[place] = result

    def _find_out(self, line: Line) -> None:
        """Which of the calls each program makes for itself: the same in every launch."""
        many = {place for place, value in enumerate(self.values) if self.is_many(value)}
        for _, for_many, inputs, place in line.calls:
            differ = for_many in ALWAYS or not many.isdisjoint(inputs)
            line.differs.append(differ)
            if differ:
                many.add(place)

    def is_many(self, value: Any) -> bool:
        return isinstance(value, self.handle) and MANY in value.attr

    def seen(self, value: Any, how: Callable[[Any], Hashable]) -> dict[Hashable, Any]:
        """What Python sees of a value, and which of the programs see it."""
        if not self.is_many(value):
            return {how(value): np.arange(len(self.programs))}
        found: dict[Hashable, list[int]] = {}
        for number, data in enumerate(value.data):
            found.setdefault(how(self.handle(data, value.dtype)), []).append(number)
        return {what: np.array(numbers) for what, numbers in found.items()}

    def some(self, numbers: Any) -> Crowd:
        """Those of the programs, as they are now."""
        if len(numbers) == len(self.programs):
            return self
        values = [
            self._many(x.data[numbers], x.dtype) if self.is_many(x) else x for x in self.values
        ]
        return Crowd(self.interpreter, self.programs[numbers], values)

    def one(self, number: int) -> list[Any]:
        """The values of one program, as if it had been alone."""
        return [self.handle(x.data[number], x.dtype) if self.is_many(x) else x for x in self.values]

    def _many(self, data: Any, dtype: Any) -> Any:
        found = self.handle(data, dtype)
        found.attr[MANY] = True
        return found

    # -- operations that know of shapes: each takes the builder's own, and what that takes --------

    def number(self, function: Function, axis: int) -> Any:
        return self._many(self.programs[:, axis : axis + 1].astype(np.int32), tl.int32)

    def everywhere(self, function: Function, *given: Any) -> Any:
        """Loads, stores, atomics: each program its own, also where all go to one place."""
        pointers = next(x for x in given if isinstance(x, self.handle))
        shape = (len(self.programs), *pointers.data.shape[self.is_many(pointers) :])
        whole = [
            self.filled(x, shape) if isinstance(x, self.handle) and x.data.shape != shape else x
            for x in given
        ]
        return function(*whole)

    def splat(self, function: Function, kind: Any, value: Any) -> Any:
        sizes = sizes_of(kind.shape)
        value = self.handle(value.data.reshape(-1, *[1] * len(sizes)), value.dtype.scalar)
        return self.filled(value, (len(self.programs), *sizes))

    def broadcast(self, function: Function, value: Any, shape: Any) -> Any:
        return self.filled(value, (len(self.programs), *sizes_of(shape)))

    def filled(self, value: Any, shape: tuple[int, ...]) -> Any:
        found = np.empty(shape, value.data.dtype)
        found[...] = value.data
        return self.handle(found, value.dtype)

    def expand(self, function: Function, value: Any, axis: int) -> Any:
        return function(value, axis + 1)

    def reshape(self, function: Function, value: Any, shape: Any, *rest: Any) -> Any:
        return function(value, (len(self.programs), *sizes_of(shape)), *rest)

    def transpose(self, function: Function, value: Any, order: Any) -> Any:
        return function(value, (0, *[axis + 1 for axis in sizes_of(order)]))

    def first(self, function: Function, value: Any) -> Any:
        return self.handle(value.data.reshape(len(self.programs), -1)[:, :1], value.dtype.scalar)

    def reduced(self, function: Reduction, *given: Any) -> Any:
        return function.of_many(len(self.programs), given)


class Reduction:
    """One result of a sum, a maximum or the like, which do without the builder."""

    def __init__(self, operation: Any, kinds: list[Any], number: int):
        self.operation, self.kinds, self.number = operation, kinds, number
        self.axis = getattr(operation.axis, "value", operation.axis)

    def __call__(self, *handles: Any) -> Any:
        return self._result(self.operation, handles)

    def of_many(self, count: int, handles: tuple[Any, ...]) -> Any:
        """The same with one more axis in front; a scalar is an array of one element."""
        operation = copy.copy(self.operation)
        operation.axis = self.axis + (self.axis >= 0) if self.axis is not None else 1
        operation.to_tensor = self._of_any_length
        whole = []
        for x in handles:
            data = x.data if MANY in x.attr else np.broadcast_to(x.data, (count, *x.data.shape))
            whole.append(type(x)(data.reshape(count, -1) if self.axis is None else data, x.dtype))
        found = self._result(operation, tuple(whole))
        if found.data.ndim == 1:
            found.data = found.data[:, None]
        return found

    def _of_any_length(self, data: Any, dtype: Any) -> Any:
        """What the operation makes of its results; Triton's tensors want powers of two."""
        made = self.operation.to_tensor
        if not getattr(data, "ndim", 0):
            return made(data, dtype)
        handle = made(data.flat[0], dtype).handle
        handle.data = data.astype(handle.data.dtype, copy=False)
        return SimpleNamespace(handle=handle)

    def _result(self, operation: Any, handles: tuple[Any, ...]) -> Any:
        found = operation.apply_impl(tuple(map(tl.core.tensor, handles, self.kinds)))
        return (found if isinstance(found, (tuple, list)) else (found,))[self.number].handle


def sizes_of(shape: Any) -> tuple[int, ...]:
    return tuple(int(getattr(size, "value", size)) for size in getattr(shape, "values", shape))


FOR_MANY: dict[str, Function] = {
    "create_get_program_id": Crowd.number,
    "create_splat": Crowd.splat,
    "create_unsplat": Crowd.first,
    "create_broadcast": Crowd.broadcast,
    "create_expand_dims": Crowd.expand,
    "create_reshape": Crowd.reshape,
    "create_trans": Crowd.transpose,
    "reduction": Crowd.reduced,
    **dict.fromkeys(
        (
            *("create_load", "create_masked_load", "create_store", "create_masked_store"),
            *("create_atomic_rmw", "create_atomic_cas"),
        ),
        Crowd.everywhere,
    ),
}
"""All others go by element, or by matrix."""
ALWAYS = Crowd.number, Crowd.everywhere
