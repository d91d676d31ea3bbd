"""Every lane of every load, store and atomic held to the launch's arguments, and every place that
two programs store to found out."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, ClassVar

import numpy as np
import torch

shared_places: set[int] = set()
"""Addresses that several programs of a launch may store to."""


class OutOfBounds(Exception):
    """An active lane is outside of every argument."""


class WriteRace(Exception):
    """Two programs of a launch store to one place."""


class Watch:
    """The launch under way: its arguments' address ranges, and who stored where."""

    ranges = np.zeros((0, 2), np.uint64)
    starts: ClassVar[list[int]] = []
    ends: ClassVar[list[int]] = []
    stores: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []  # programs, addresses


def watch(interpreter: Any) -> None:
    """Patch Triton's interpreter."""
    _check_lanes(interpreter)
    _check_launches(interpreter)


def _check_lanes(interpreter: Any) -> None:
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    change, exchange = builder.create_atomic_rmw, builder.create_atomic_cas

    def create_masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        _inside(self, "load", ptrs, mask)
        return load(self, ptrs, mask, *rest, **named)

    def create_masked_store(
        self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any
    ) -> Any:
        Watch.stores.append((_programs(self, ptrs, mask), _inside(self, "store", ptrs, mask)))
        return store(self, ptrs, value, mask, *rest, **named)

    def create_atomic_rmw(self: Any, op: Any, ptr: Any, value: Any, mask: Any, *rest: Any) -> Any:
        _inside(self, "atomic", ptr, mask)
        return change(self, op, ptr, value, mask, *rest)

    def create_atomic_cas(self: Any, ptr: Any, *rest: Any) -> Any:
        _inside(self, "atomic", ptr, None)
        return exchange(self, ptr, *rest)

    for function in (create_masked_load, create_masked_store, create_atomic_rmw, create_atomic_cas):
        setattr(builder, function.__name__, function)


def _programs(builder: Any, ptrs: Any, mask: Any) -> np.ndarray:
    """Which program each active lane belongs to; many run at once with an axis in front."""
    (x, y, z), (_, num_y, num_z) = builder.grid_idx, builder.grid_dim
    number = np.asarray((x * num_y + y) * num_z + z)
    if number.ndim:
        number = number.reshape(-1, *[1] * (ptrs.data.ndim - 1))
    return _active(np.broadcast_to(number, ptrs.data.shape), mask)


def _active(lanes: np.ndarray, mask: Any) -> np.ndarray:
    if mask is not None:
        plain = isinstance(mask, np.ndarray)  # as tensor descriptors give it
        wanted = (mask if plain else mask.data).astype(bool, copy=False)
        same = wanted.shape == lanes.shape
        lanes = lanes[wanted if same else np.broadcast_to(wanted, lanes.shape)]
    return lanes.reshape(-1)


def _inside(builder: Any, what: str, ptrs: Any, mask: Any) -> np.ndarray:
    """The addresses of active lanes, none of them outside."""
    size = np.uint64(max(1, ptrs.get_element_ty().primitive_bitwidth // 8))
    places = _active(np.asarray(ptrs.data, np.uint64), mask)
    if len(places) and not _within_one(int(places.min()), int(places.max()) + int(size)):
        last = np.searchsorted(Watch.ranges[:, 0], places, "right") - 1
        inside = (last >= 0) & (places + size <= Watch.ranges[last, 1])
        if not inside.all():
            many = f"{np.count_nonzero(~inside)} of {len(places)} lanes"
            program = _programs(builder, ptrs, mask)[~inside][0]
            raise OutOfBounds(f"{what}: {many} are in no argument, first in program {program}")
    return places


def _within_one(start: int, end: int) -> bool:
    """Whether one argument holds all: most often so, and soon found out."""
    last = bisect_right(Watch.starts, start) - 1
    return last >= 0 and end <= Watch.ends[last]


def _check_launches(interpreter: Any) -> None:
    executor = interpreter.GridExecutor
    prepare, call = executor._init_args_hst, executor.__call__

    def _init_args_hst(self: Any, args: Any, kwargs: Any) -> Any:
        made = prepare(self, args, kwargs)
        # A descriptor's tensor is its base.
        values = (getattr(x, "base", x) for x in [*made[0], *made[1].values()])
        tensors = (interpreter._unwrap_tensor(x) for x in values)
        Watch.ranges = _ranges([x for x in tensors if isinstance(x, torch.Tensor) and x.numel()])
        Watch.starts, Watch.ends = Watch.ranges.T.tolist()
        return made

    def __call__(self: Any, *args: Any, **kwargs: Any) -> None:
        Watch.stores.clear()
        call(self, *args, **kwargs)
        _find_races(self.fn.__name__)

    executor._init_args_hst, executor.__call__ = _init_args_hst, __call__


def _ranges(tensors: list[torch.Tensor]) -> np.ndarray:
    """[N, 2] from, to: exactly what the tensors' elements span, sorted, overlaps merged."""
    spans = []
    for tensor in tensors:
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        size = sum((count - 1) * stride for count, stride in pairs) + 1
        start = tensor.data_ptr()
        spans.append((start, start + size * tensor.element_size()))
    merged: list[list[int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(high, merged[-1][1])
        else:
            merged.append([low, high])
    return np.array(merged, np.uint64).reshape(-1, 2)


def _find_races(kernel: str) -> None:
    if not Watch.stores:
        return
    programs, places = (np.concatenate(lanes) for lanes in zip(*Watch.stores, strict=True))
    order = np.lexsort((programs, places))
    places, programs = places[order], programs[order]
    twice = (places[1:] == places[:-1]) & (programs[1:] != programs[:-1])
    for at in np.flatnonzero(twice):
        if int(places[at]) not in shared_places:
            who = f"{programs[at]} and {programs[at + 1]}"
            raise WriteRace(f"programs {who} of {kernel} store to one place")
