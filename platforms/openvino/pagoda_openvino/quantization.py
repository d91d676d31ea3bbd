"""Weights in 8 or 4 bits, rounded at load: symmetric, so that a weight is a whole number times its
scale; OpenVINO keeps them small and multiplies by the scale as it goes.

int8   a scale for each row of every matrix
int4   a scale for each 128 columns of each row (all columns where 128 does not divide them); the
       embedding and the output matrix, which decide the tokens, in int8"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from pagoda.models.weights import RawTensor
from pagoda_openvino import machine
from pagoda_openvino.rope import ints
from pagoda_openvino.weights import Source, Weights, as_float32, stack

GROUP = 128
NUMBERS = 1 << 18  # worked on at a time by a thread: what a processor's cache holds
LARGEST = {"int8": 127, "int4": 7}
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Rounded:
    """A matrix as numbers -LARGEST .. LARGEST and the float32 scale of each group."""

    numbers: npt.NDArray[np.int8]  # [rows, groups, columns / groups]
    scales: npt.NDArray[np.float32]  # [rows, groups, 1]


class QuantizedWeights(Weights):
    """Matrices rounded; norms and biases as they are."""

    def __init__(self, source: Source, kind: str):
        super().__init__(source)
        self.kind = kind

    def joined(self, raws: Sequence[RawTensor]) -> RawTensor:
        return stack(raws)  # needed until it is rounded

    def constant(self, raw: RawTensor) -> ov.Node:
        kind, size = "int8" if raw.name in WHOLE else self.kind, raw.shape
        rounded = round_matrix(raw, kind)
        self.hand_back_pages()
        if kind == "int8":
            stored, scales = (
                self._put(rounded.numbers[:, 0], size, ov.Type.i8),
                rounded.scales[:, 0],
            )
            return op.multiply(op.convert(stored, "f32"), op.constant(scales))
        stored = self._put(pack_pairs(rounded.numbers), rounded.numbers.shape, ov.Type.i4)
        weight = op.multiply(op.convert(stored, "f32"), op.constant(rounded.scales))
        return op.reshape(weight, ints(list(size)), False)

    def _put(self, array: npt.NDArray[Any], shape: tuple[int, ...], kind: ov.Type) -> ov.Node:
        array = self.put(array)
        self.held.append(array)
        return op.constant(ov.Tensor(array, ov.Shape(shape), kind), shared_memory=True)


def round_matrix(raw: RawTensor, kind: str) -> Rounded:
    """The largest number of a group becomes LARGEST, the others the nearest in its steps."""
    rows, columns = raw.shape
    grouped = kind == "int4" and columns % GROUP == 0
    groups = columns // GROUP if grouped else 1
    numbers = np.empty((rows, groups, columns // groups), np.int8)
    scales = np.empty((rows, groups, 1), np.float32)
    width, count = len(raw.buffer) // rows, max(1, NUMBERS // columns)

    def work(start: int) -> None:
        end = min(rows, start + count)
        part = raw.buffer[start * width : end * width]
        values = as_float32(RawTensor(raw.name, raw.dtype, (end - start, columns), part))
        values = values.reshape(end - start, groups, -1)
        largest = np.maximum(values.max(-1, keepdims=True), -values.min(-1, keepdims=True))
        scales[start:end] = np.maximum(largest, np.float32(1e-30)) / np.float32(LARGEST[kind])
        np.divide(values, scales[start:end], out=values)
        numbers[start:end] = np.rint(values, out=values)

    with ThreadPoolExecutor(machine.num_cores()) as threads:  # NumPy lets others run meanwhile
        list(threads.map(work, range(0, rows, count)))
    return Rounded(numbers, scales)


def pack_pairs(numbers: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two 4-bit numbers a byte, the first in the lower half, as OpenVINO lays out i4."""
    halves = (numbers.reshape(-1, 2) & 15).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = halves[:, 0] | (halves[:, 1] << np.uint8(4))
    return packed
