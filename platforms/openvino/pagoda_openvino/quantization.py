"""Weights in 8 or 4 bits, rounded at load: symmetric, so that a weight is a whole number times its
scale; OpenVINO keeps them small and multiplies by the scale as it goes.

int8   a scale for each row of every matrix
int4   a scale for each 128 columns of each row (all columns where 128 does not divide them); the
       embedding and the output matrix, which decide the tokens, in int8"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from pagoda.models.weights import RawTensor
from pagoda_openvino import machine
from pagoda_openvino.blocking import GROUP
from pagoda_openvino.rope import ints
from pagoda_openvino.scratch import Bytes, Room
from pagoda_openvino.weights import Source, Weights, widen

NUMBERS = 1 << 18  # worked on at a time by a thread: what a processor's cache holds
LARGEST = {"int8": 127, "int4": 7}
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


class QuantizedWeights(Weights):
    """Matrices rounded; norms and biases as they are."""

    def __init__(self, source: Source, kind: str):
        super().__init__(source)
        self.kind = kind

    def widened(self, raw: RawTensor) -> bool:
        return True

    def constants(self, raw: RawTensor, widths: Sequence[int]) -> list[ov.Node]:
        rounding = Rounding(raw, "int8" if raw.name in WHOLE else self.kind, widths)
        rooms = [self.scratch.room(size) for size in rounding.num_bytes]
        scales = rounding.round_into(rooms)
        numbers = [self.kept(room) for room in rooms]
        self.hand_back_pages()
        return [self._product(*part, rounding.kind) for part in zip(numbers, scales, strict=True)]

    def _product(self, numbers: Bytes, scales: npt.NDArray[np.float32], kind: str) -> ov.Node:
        """The numbers of a matrix times the scales [rows, groups, 1]."""
        rows, groups, _ = scales.shape
        if kind == "int8":
            size = rows, numbers.size // rows
            stored = self.shared(numbers.view(np.int8).reshape(size), size, ov.Type.i8)
            return op.multiply(op.convert(stored, "f32"), op.constant(scales[:, 0]))
        columns = 2 * numbers.size // rows
        stored = self.shared(numbers, (rows, groups, columns // groups), ov.Type.i4)
        weight = op.multiply(op.convert(stored, "f32"), op.constant(scales))
        return op.reshape(weight, ints([rows, columns]), False)


class Rounding:
    """A matrix on its way to numbers -LARGEST .. LARGEST and the float32 scale of each group: the
    largest of a group becomes LARGEST, the others the nearest in its steps."""

    def __init__(self, raw: RawTensor, kind: str, widths: Sequence[int]):
        self.raw, self.kind = raw, kind
        rows, columns = raw.shape
        groups = columns // GROUP if kind == "int4" and columns % GROUP == 0 else 1
        self.shape = (rows, groups, columns // groups)
        ends = list(itertools.accumulate(widths))
        self.parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]

    @property
    def num_bytes(self) -> list[int]:
        """Of each part.  Two 4-bit numbers a byte, the first in the lower half: OpenVINO's i4."""
        numbers = 2 if self.kind == "int4" else 1
        return [self.shape[0] * (part.stop - part.start) // numbers for part in self.parts]

    def round_into(self, rooms: Sequence[Room]) -> list[npt.NDArray[np.float32]]:
        """The numbers go into ``rooms``, one a part, int8 or packed by twos; the scales [rows,
        groups, 1] of each part are returned.  Each thread has its own rows, since NumPy lets
        others run meanwhile."""
        rows, groups, width = self.shape
        scales = np.empty((rows, groups, 1), np.float32)
        height = max(2, NUMBERS // self.raw.shape[1] // 2 * 2)  # even: whole bytes of pairs
        count = machine.num_cores()

        def work(thread: int) -> None:
            values, spare = np.empty((2, height, *self.shape[1:]), np.float32)
            for start in range(thread * height, rows, count * height):
                size = min(height, rows - start)
                part = slice(start, start + size)
                numbers = self._round(values[:size], spare[:size], scales[part], part)
                for columns, room in zip(self.parts, rooms, strict=True):
                    found = np.ascontiguousarray(numbers[:, columns])
                    stored = pack_pairs(found) if self.kind == "int4" else found
                    room.write(start * stored.nbytes // size, stored)

        with ThreadPoolExecutor(count) as threads:
            list(threads.map(work, range(count)))
        if groups == 1:
            return [scales] * len(self.parts)
        return [scales[:, part.start // width : part.stop // width] for part in self.parts]

    def _round(
        self,
        values: npt.NDArray[np.float32],  # [r, groups, columns / groups], to work in
        spare: npt.NDArray[np.float32],
        scales: npt.NDArray[np.float32],  # [r, groups, 1], to be found
        rows: slice,
    ) -> npt.NDArray[np.int8]:
        """[r, columns]"""
        width = len(self.raw.buffer) // self.raw.shape[0]
        part = self.raw.buffer[rows.start * width : rows.stop * width]
        widen(part, self.raw.dtype, values.reshape(-1))
        np.abs(values, out=spare).max(-1, keepdims=True, out=scales)
        np.maximum(scales, np.float32(1e-30), out=scales)
        np.divide(scales, np.float32(LARGEST[self.kind]), out=scales)
        np.divide(values, scales, out=values)
        return np.rint(values, out=values).astype(np.int8).reshape(len(values), -1)


def pack_pairs(numbers: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    pairs = numbers.reshape(-1).view("<u2")
    return ((pairs & 15) | ((pairs >> 4) & 0xF0)).astype(np.uint8)
