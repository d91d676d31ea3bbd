"""What a program does, kept when it first runs and done again for the others, many at a time: much
faster, with the same results.

Between the values that Python looks at (a loop's turns, a condition) a program is a line of calls
to the interpreter's builder, whatever its numbers.  The lines of a kernel make a tree that branches
by the values looked at.  A program that meets a value for the first time is run by Python from its
start, is answered from what it did already up to there, and leaves a new branch.  What is not
understood here (descriptors) is interpreted as ever."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.language as tl

from pagoda_triton_interpret.crowd import FOR_MANY, Crowd, Reduction, fits

MOST_AT_ONCE = 128  # programs
MOST_LINES = 50_000  # kept, of some kilobytes each
FIXED = "fixed"  # marks the handles that no argument and no number of a program had a part in

Call = tuple[Callable[..., Any], Callable[..., Any] | None, tuple[int, ...], int]
"""A function, what takes its place for many programs, the numbers of its inputs and its result."""


@dataclass
class Line:
    """Calls in a row, up to a value that Python looks at, and what comes then.

    A program's values are numbered: its arguments, then those of its lines."""

    values: list[Any] = field(default_factory=list)  # constants, None in place of results
    calls: list[Call] = field(default_factory=list)
    looks_at: tuple[int, Callable[[Any], Hashable]] | None = None
    then: dict[Hashable, Line] = field(default_factory=dict)
    differs: list[bool] = field(default_factory=list)  # from program to program: each call's result


class Kernel:
    """One launch's function, in the place of the one that is called for every program: the first
    call does the work of all."""

    lines: dict[Hashable, Line | None] = {}  # noqa: RUF012  (by function, types and constants)
    num_lines = 0
    recorder: Recorder | None = None  # of the program that Python runs now

    def __init__(self, function: Any, interpreter: Any):
        functools.update_wrapper(self, function)
        self.__signature__ = inspect.signature(function)
        self.__globals__ = function.__globals__
        self.function, self.interpreter = function, interpreter
        self.builder = interpreter.interpreter_builder
        self.args: dict[str, Any] = {}
        self.key: tuple[Hashable, ...] = ()

    def __call__(self, **args: Any) -> None:
        if self.key:
            return
        kinds = [str(x.type) if isinstance(x, tl.tensor) else repr(x) for x in args.values()]
        self.key = self.function, self.builder.options, *kinds
        self.args = args
        values = [x.handle for x in args.values() if isinstance(x, tl.tensor)]
        programs = np.array(list(np.ndindex(*self.builder.grid_dim)), np.int32)
        if self.key not in Kernel.lines:
            recorder = Recorder(self.interpreter, list(values), len(values), Line(), -1)
            self.record(programs[0], recorder)
            programs = programs[1:]
        line = Kernel.lines.get(self.key)
        for first in range(0, len(programs), 1 if line is None else MOST_AT_ONCE):
            some = programs[first : first + MOST_AT_ONCE]
            if line is not None:
                crowd = Crowd(self.interpreter, some, list(values))
                self.follow(line, crowd, len(values), 0)
            else:
                self.builder.set_grid_idx(*some[0].tolist())
                self.function(**args)

    def follow(self, line: Line, crowd: Crowd, num_args: int, num_looks: int) -> None:
        """Do what the lines say; where a program sees what none saw before, run it in Python."""
        crowd.run(line)
        if line.looks_at is None:
            return
        place, how = line.looks_at
        for value, numbers in crowd.seen(crowd.values[place], how).items():
            while len(numbers) and value not in line.then:
                values = crowd.one(numbers[0])
                recorder = Recorder(self.interpreter, values, num_args, line, num_looks)
                self.record(crowd.programs[numbers[0]], recorder)
                numbers = numbers[1:]
            if len(numbers):
                self.follow(line.then[value], crowd.some(numbers), num_args, num_looks + 1)

    def record(self, program: Any, recorder: Recorder) -> None:
        """Run the program in Python, and keep what was new in it."""
        root = recorder.line
        semantic = self.interpreter.interpreter_semantic
        self.builder.set_grid_idx(*program.tolist())
        semantic.builder, Kernel.recorder = recorder, recorder
        try:
            self.function(**self.args)
        finally:
            semantic.builder, Kernel.recorder = self.builder, None
        Kernel.num_lines += recorder.num_lines
        if Kernel.num_lines > MOST_LINES:
            Kernel.lines.clear()
            Kernel.num_lines = 0
        if recorder.lost:
            Kernel.lines[self.key] = None
        elif recorder.branch is None:
            Kernel.lines[self.key] = root
        else:
            value, line = recorder.branch
            root.then[value] = line


class Recorder:
    """Stands in for the interpreter's builder while a program runs, and writes its calls down."""

    def __init__(
        self, interpreter: Any, values: list[Any], num_args: int, line: Line, num_looks: int
    ):
        self.builder = interpreter.interpreter_builder
        self.handle = interpreter.TensorHandle
        self.values = values  # all that the program has so far, kept alive
        self.num_known = len(values)
        self.count = num_args  # as far as Python has come
        self.line = line  # being written, or the one to branch from
        self.num_looks = num_looks  # that were met before; -1: nothing is known
        self.branch: tuple[Hashable, Line] | None = None
        self.num_lines = 1
        self.lost = False
        self.places = {id(x): i for i, x in enumerate(values) if isinstance(x, self.handle)}

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.builder, name)
        if not callable(member) or name.endswith("_ty"):
            return member
        return lambda *args, **named: self.call(name, member, args, named)

    def call(self, name: str, function: Any, args: Any, named: Any) -> Any:
        """The call's result: as it was, where this program has come here before."""
        self.lost = self.lost or bool(named) or not all(map(self.understands, args))
        self.lost = self.lost or not fits(name)
        if self.lost:
            return function(*args, **named)
        inputs = tuple(self.place_of(arg) for arg in args)
        if self.count < self.num_known:
            self.count += 1
            return self.values[self.count - 1]
        result = function(*args)
        handles = [arg for arg in args if isinstance(arg, self.handle)]
        if result is not None and not isinstance(result, self.handle):
            self.lost = True
        elif (
            result is not None
            and (handles or name not in FOR_MANY)
            and all(FIXED in x.attr for x in handles)
        ):
            result.set_attr(FIXED, True)
            self.line.values.append(result)
        else:
            self.line.values.append(None)
            self.line.calls.append((function, FOR_MANY.get(name), inputs, self.count))
        self.add(result)
        return result

    def look(self, handle: Any, how: Callable[[Any], Any]) -> Any:
        """What Python sees of a value."""
        value = how(handle)
        place = self.places.get(id(handle))
        self.lost = self.lost or place is None
        if self.lost or place is None or FIXED in handle.attr:
            return value
        if self.num_looks > 0:
            self.num_looks -= 1
            return value
        following = Line()
        if self.num_looks == 0:
            self.branch = value, following
            self.num_looks = -1
        else:
            self.line.looks_at = place, how
            self.line.then[value] = following
        self.line = following
        self.num_lines += 1
        return value

    def understands(self, arg: Any) -> bool:
        """Whether an argument is a value that has a number, or the same in every program."""
        if isinstance(arg, self.handle):
            return id(arg) in self.places
        if isinstance(arg, (list, tuple)):
            return all(not isinstance(x, self.handle) and self.understands(x) for x in arg)
        plain = (bool, int, float, str, tl.dtype, tl.constexpr, type(None))
        return isinstance(arg, plain) or type(arg).__module__.startswith("triton._C.")

    def place_of(self, arg: Any) -> int:
        if isinstance(arg, self.handle):
            return self.places[id(arg)]
        if self.count < self.num_known:
            self.count += 1
        else:
            self.line.values.append(arg)
            self.add(arg)
        return self.count - 1

    def add(self, value: Any) -> None:
        self.values.append(value)
        if isinstance(value, self.handle):
            self.places[id(value)] = self.count
        self.count += 1


def install(interpreter: Any) -> None:
    """Patch Triton's interpreter."""
    executor, make = interpreter.GridExecutor, interpreter.GridExecutor.__init__

    def __init__(self: Any, function: Any, *rest: Any, **named: Any) -> None:
        make(self, function, *rest, **named)
        self.fn = Kernel(function, interpreter)

    executor.__init__ = __init__
    _looks(interpreter)
    _reductions(interpreter)


def _looks(interpreter: Any) -> None:
    usual = interpreter._patch_lang_tensor

    def looked(how: Callable[[Any], Hashable]) -> Callable[[Any], Any]:
        def look(tensor: Any) -> Any:
            recorder = Kernel.recorder
            return how(tensor.handle) if recorder is None else recorder.look(tensor.handle, how)

        return look

    def as_bool(handle: Any) -> bool:
        return bool(handle.data) if handle.data.size == 1 else True

    def as_index(handle: Any) -> int:
        return int(handle.data.squeeze())

    def _patch_lang_tensor(tensor: Any, scope: Any) -> None:
        usual(tensor, scope)
        scope.set_attr(tensor, "__bool__", looked(as_bool))
        scope.set_attr(tensor, "__index__", looked(as_index))

    def counted(start: Any, end: Any = None, step: Any = 1) -> range:
        """Loops of as many turns are one way, wherever they end."""
        recorder = Kernel.recorder
        if recorder is None or not isinstance(end, tl.tensor):
            return range(start) if end is None else range(start, end, step)
        first, by = int(start), int(step)
        turns = recorder.look(end.handle, lambda handle: len(range(first, as_index(handle), by)))
        return range(first, first + turns * by, by)

    interpreter._patch_lang_tensor = _patch_lang_tensor
    interpreter.range = counted  # what the interpreter has, kernels have


def _reductions(interpreter: Any) -> None:
    """They do without the builder: each result is written down as a call of its own."""
    usual = interpreter.ReduceScanOpInterface.apply

    def apply(self: Any, given: Any) -> Any:
        recorder = Kernel.recorder
        if recorder is None:
            return usual(self, given)
        if not isinstance(given, tuple):
            return self.apply((given,))[0]
        kinds = [x.type for x in given]
        semantic = interpreter.interpreter_semantic
        semantic.builder, Kernel.recorder = recorder.builder, None
        try:
            found = usual(self, given)
            results = []
            for number, one in enumerate(found):
                handles = [x.handle for x in given]
                again = Reduction(self, kinds, number)
                handle = recorder.call("reduction", again, handles, {})
                results.append(tl.core.tensor(handle, one.type))
        finally:
            semantic.builder, Kernel.recorder = recorder, recorder
        return tuple(results)

    interpreter.ReduceScanOpInterface.apply = apply
