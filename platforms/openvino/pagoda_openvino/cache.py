"""The paged KV cache: host memory of ours, in the layout that the compiled model asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from pagoda.platform import OutOfMemory, UnsupportedFeature
from pagoda.platform.batch import Int32

Array = npt.NDArray[Any]

WORDS = {
    ov.Type.f32: np.float32,
    ov.Type.f16: np.float16,
    ov.Type.bf16: np.uint16,  # NumPy has none; its bits are only moved here
    ov.Type.u8: np.uint8,
}


@dataclass(frozen=True)
class CacheInput:
    """One cache of one layer: keys or values."""

    name: str
    kind: ov.Type
    block_shape: tuple[int, ...]  # [Hk, tokens (keys: and scales), D (values: and scales)]

    @property
    def block_bytes(self) -> int:
        return math.prod(self.block_shape) * np.dtype(WORDS[self.kind]).itemsize


@dataclass(frozen=True)
class CacheLayout:
    """What a compiled model's cache inputs say about themselves."""

    inputs: tuple[CacheInput, ...]

    @property
    def block_size(self) -> int:
        """Tokens a block: an 8-bit key block has rows of scales too, a value block only columns."""
        values = next(found for found in self.inputs if found.name.startswith("value_cache."))
        return values.block_shape[1]

    @property
    def block_bytes(self) -> int:
        return sum(found.block_bytes for found in self.inputs)


def read_layout(compiled: ov.CompiledModel) -> CacheLayout:
    """Raises UnsupportedFeature for a layout whose memory cannot be made here."""
    found = []
    for port in compiled.inputs:
        name, shape, kind = port.get_any_name(), port.get_partial_shape(), port.get_element_type()
        if not name.startswith(("key_cache.", "value_cache.")):
            continue
        dims = list(shape)
        if kind not in WORDS or len(dims) != 4 or not all(dim.is_static for dim in dims[1:]):
            raise UnsupportedFeature(
                f"OpenVINO wants {name} as {kind.get_type_name()} {shape}: not a KV cache layout"
                " that pagoda-openvino knows",
                "another --kv-cache-dtype or --device",
            )
        found.append(CacheInput(name, kind, tuple(dim.get_length() for dim in dims[1:])))
    return CacheLayout(tuple(found))


class PagedCache:
    """Blocks 0 .. num_blocks - 1 of every layer.  A block's content is junk until written."""

    def __init__(self, layout: CacheLayout, num_blocks: int, memory_bytes: int):
        self.layout = layout
        self.num_blocks = num_blocks
        needed = num_blocks * layout.block_bytes
        try:
            if needed > memory_bytes:
                raise MemoryError
            self.arrays = [
                np.zeros((num_blocks, *found.block_shape), WORDS[found.kind])
                for found in layout.inputs
            ]
        except MemoryError as error:
            raise OutOfMemory(
                f"{num_blocks} blocks of KV cache take {needed / 2**30:.1f} GiB, the machine has"
                f" {memory_bytes / 2**30:.1f}",
                "fewer --num-blocks or a smaller --max-model-len",
            ) from error

    def bind(self, request: ov.InferRequest) -> None:
        """Have ``request`` read and write these arrays in place."""
        for found, array in zip(self.layout.inputs, self.arrays, strict=True):
            request.set_tensor(found.name, ov.Tensor(array, ov.Shape(array.shape), found.kind))

    def copy_blocks(self, pairs: Int32) -> None:
        """Copy block pairs[:, 0] to pairs[:, 1], all sources read before any is written."""
        for array in self.arrays:
            array[pairs[:, 1]] = array[pairs[:, 0]]

    def poison(self) -> None:
        """NaN everywhere: all bits set, which an 8-bit cache's float32 scales are then too."""
        for array in self.arrays:
            array.view(np.uint8).fill(255)
