"""Rotary position embedding in the form that OpenVINO recognises and computes as one operation.

A form it does not recognise is not only slower: in bfloat16 the angles themselves are rounded."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op

from pagoda.platform.batch import Float32


class Rotation:
    """Cosine and sine of a step's positions [T], and the turn by them."""

    def __init__(self, positions: ov.Node, radians: Float32):
        self.half = len(radians)
        places = op.convert(op.reshape(positions, ints([-1, 1, 1]), False), "f32")
        angles = op.multiply(places, op.constant(radians.reshape(1, 1, -1)))
        both = op.concat([angles, angles], -1)
        self.cos = op.unsqueeze(op.cos(both), ints(1))  # [T, 1, 1, D]
        self.sin = op.unsqueeze(op.sin(both), ints(1))

    def turn(self, x: ov.Node) -> ov.Node:
        """Turn x [T, H, 1, D]; the two halves of D are a pair's coordinates."""
        one, last = ints([1]), ints([3])
        # Slices rather than a split, and a scalar -1: the form OpenVINO looks for.
        left = op.slice(x, ints([0]), ints([self.half]), one, last)
        right = op.slice(x, ints([self.half]), ints([2**63 - 1]), one, last)
        minus = op.constant(np.array(-1, np.float32))
        crossed = op.concat([op.multiply(right, minus), left], -1)
        return op.add(op.multiply(x, self.cos), op.multiply(crossed, self.sin))


def ints(value: int | list[int]) -> ov.Node:
    """An int64 constant, as OpenVINO wants indices and shapes."""
    return op.constant(np.array(value, np.int64))
