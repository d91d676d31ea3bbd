"""Weights in 8 or 4 bits, rounded at load: symmetric, so that a weight is a whole number times its
scale; OpenVINO keeps them small and multiplies by the scale as it goes.

int8   a scale for each row of every matrix
int4   a scale for each 128 columns of each row (all columns where 128 does not divide them); the
       embedding and the output matrix, which decide the tokens, in int8"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from pagoda.models.weights import RawTensor
from pagoda_openvino import machine
from pagoda_openvino.rope import ints
from pagoda_openvino.scratch import Room
from pagoda_openvino.weights import Source, Weights, stack, widen

GROUP = 128
NUMBERS = 1 << 18  # worked on at a time by a thread: what a processor's cache holds
LARGEST = {"int8": 127, "int4": 7}
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


class QuantizedWeights(Weights):
    """Matrices rounded; norms and biases as they are."""

    def __init__(self, source: Source, kind: str):
        super().__init__(source)
        self.kind = kind

    def joined(self, raws: Sequence[RawTensor]) -> RawTensor:
        return stack(raws)  # needed until it is rounded

    def constant(self, raw: RawTensor) -> ov.Node:
        kind, size = "int8" if raw.name in WHOLE else self.kind, raw.shape
        rounding = Rounding(raw, kind)
        room = self.scratch.room(rounding.num_bytes)
        scales = rounding.round_into(room)
        numbers = self.kept(room)
        self.hand_back_pages()
        if kind == "int8":
            stored = self.shared(numbers.view(np.int8).reshape(size), size, ov.Type.i8)
            return op.multiply(op.convert(stored, "f32"), op.constant(scales[:, 0]))
        stored = self.shared(numbers, rounding.shape, ov.Type.i4)
        weight = op.multiply(op.convert(stored, "f32"), op.constant(scales))
        return op.reshape(weight, ints(list(size)), False)


class Rounding:
    """A matrix on its way to numbers -LARGEST .. LARGEST and the float32 scale of each group: the
    largest of a group becomes LARGEST, the others the nearest in its steps."""

    def __init__(self, raw: RawTensor, kind: str):
        self.raw, self.kind = raw, kind
        rows, columns = raw.shape
        groups = columns // GROUP if kind == "int4" and columns % GROUP == 0 else 1
        self.shape = (rows, groups, columns // groups)

    @property
    def num_bytes(self) -> int:
        """Two 4-bit numbers a byte, the first in the lower half: OpenVINO's i4."""
        rows, columns = self.raw.shape
        return rows * columns // (2 if self.kind == "int4" else 1)

    def round_into(self, room: Room) -> npt.NDArray[np.float32]:
        """The numbers go into ``room``, int8 or packed by twos; the scales [rows, groups, 1] are
        returned.  Each thread has its own rows, since NumPy lets others run meanwhile."""
        rows, groups, _ = self.shape
        scales = np.empty((rows, groups, 1), np.float32)
        height = max(2, NUMBERS // self.raw.shape[1] // 2 * 2)  # even: whole bytes of pairs
        count = machine.num_cores()

        def work(thread: int) -> None:
            values, spare = np.empty((2, height, *self.shape[1:]), np.float32)
            for start in range(thread * height, rows, count * height):
                size = min(height, rows - start)
                part = slice(start, start + size)
                found = self._round(values[:size], spare[:size], scales[part], part)
                room.write(start * found.nbytes // size, found)

        with ThreadPoolExecutor(count) as threads:
            list(threads.map(work, range(count)))
        return scales

    def _round(
        self,
        values: npt.NDArray[np.float32],  # [r, groups, columns / groups], to work in
        spare: npt.NDArray[np.float32],
        scales: npt.NDArray[np.float32],  # [r, groups, 1], to be found
        rows: slice,
    ) -> npt.NDArray[Any]:
        width = len(self.raw.buffer) // self.raw.shape[0]
        part = self.raw.buffer[rows.start * width : rows.stop * width]
        widen(part, self.raw.dtype, values.reshape(-1))
        np.abs(values, out=spare).max(-1, keepdims=True, out=scales)
        np.maximum(scales, np.float32(1e-30), out=scales)
        np.divide(scales, np.float32(LARGEST[self.kind]), out=scales)
        np.divide(values, scales, out=values)
        numbers = np.rint(values, out=values).astype(np.int8)
        return pack_pairs(numbers) if self.kind == "int4" else numbers


def pack_pairs(numbers: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    pairs = numbers.reshape(-1).view("<u2")
    return ((pairs & 15) | ((pairs >> 4) & 0xF0)).astype(np.uint8)
