"""Weights as graph constants: a checkpoint's own bytes, mapped from its file and never copied here.

Whoever holds a model built from them holds the ``Weights`` too, as long as the compiled model
lives: OpenVINO reads the mapped bytes in place."""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op

from pagoda.models.weights import RawTensor, iter_weights, which_files
from pagoda.platform import BadCheckpoint, ModelInfo, RunnerConfig
from pagoda_openvino.blocking import NO_LIMIT, most_tokens, widths
from pagoda_openvino.read_ahead import read_ahead
from pagoda_openvino.scratch import Bytes, Room, Scratch

Array = npt.NDArray[Any]

# Stored as: what NumPy sees (it has no bfloat16), what OpenVINO sees.
KINDS = {
    "F32": ("<f4", ov.Type.f32),
    "F16": ("<f2", ov.Type.f16),
    "BF16": ("<u2", ov.Type.bf16),
}
NUM_RANDOM = (1 << 20) - 3
"""Normal numbers that dummy weights are made of."""


class Source(Protocol):
    """Where tensors come from, by name."""

    def take(self, name: str, size: tuple[int, ...]) -> RawTensor: ...

    def finish(self) -> None: ...


class Checkpoint:
    """A folder's safetensors; every tensor is asked for once, and none may be left over."""

    def __init__(self, model: ModelInfo, config: RunnerConfig, tied: bool):
        self.path = model.path
        self.tied = tied
        read_ahead(which_files(model.path, config.load_format).files)
        raw = iter_weights(model.path, config.load_format, config.show_progress)
        self.tensors = {tensor.name: tensor for tensor in raw}

    def take(self, name: str, size: tuple[int, ...]) -> RawTensor:
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise BadCheckpoint(f"{self.path}: tensor {name} is missing", "a complete checkpoint")
        if tensor.shape != size:
            raise BadCheckpoint(
                f"{self.path}: {name} is {list(tensor.shape)}, config.json says {list(size)}",
                "a config.json that belongs to these weights",
            )
        if tensor.dtype not in KINDS:
            raise BadCheckpoint(
                f"{self.path}: {name} is stored as {tensor.dtype}",
                f"a checkpoint in {', '.join(KINDS)}",
            )
        return tensor

    def finish(self) -> None:
        """Raise BadCheckpoint, naming what has no place in the model."""
        left = [name for name in self.tensors if not self._needless(name)]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise BadCheckpoint(
                f"{self.path}: not part of this model: {', '.join(left[:3])}{more}",
                "a config.json that belongs to these weights",
            )

    def _needless(self, name: str) -> bool:
        """What old checkpoints carry along: RoPE tables, and the tied output matrix again."""
        return name.endswith("rotary_emb.inv_freq") or (self.tied and name == "lm_head.weight")


class RandomWeights:
    """For --load-format dummy: matrices that keep the size of what passes, norms of 1, no bias.

    Matrices are cut one after the other from one table of normal numbers, again and again; its
    length is a prime, so no two rows are alike."""

    def __init__(self, config: RunnerConfig):
        rng = np.random.default_rng(config.seed)
        self.kind = "BF16" if config.dtype == "bfloat16" else "F32"
        self.table = rng.standard_normal(NUM_RANDOM, np.float32)
        self.start = 0

    def take(self, name: str, size: tuple[int, ...]) -> RawTensor:
        if len(size) == 1:
            ones = np.full(size, 0 if name.endswith("bias") else 1, np.float32)
            return RawTensor(name, "F32", size, memoryview(ones.tobytes()))
        scaled = self.table / np.float32(size[-1] ** 0.5)
        if self.kind == "BF16":  # the upper half of a float32
            scaled = (scaled.view(np.uint32) >> 16).astype(np.uint16)
        values = np.resize(np.roll(scaled, -self.start), math.prod(size))
        self.start = (self.start + values.size) % NUM_RANDOM
        return RawTensor(name, self.kind, size, values.view(np.uint8).data)

    def finish(self) -> None:
        """Nothing can be left over."""


class Weights:
    """A model's constants, and the memory under them."""

    def __init__(self, source: Source):
        self.source = source
        self.most_tokens = NO_LIMIT  # an inference, for speed; known when all is taken
        self.scratch = Scratch()
        self.held: list[Array] = []
        self.mappings: dict[int, mmap.mmap] = {}  # under what is held, and what was read

    def matrix(self, name: str, size: tuple[int, int]) -> ov.Node:
        """A weight, float32 to the graph whatever it is stored as."""
        (found,) = self.constants(self.take(name, size), size[1:])
        return found

    def factors(self, sizes: Mapping[str, tuple[int, int]]) -> list[ov.Node]:
        """The same of several names, which have as many columns: one matrix under the other; in
        as many parts, side by side, as OpenVINO is quickest to multiply by."""
        raw = stack([self.take(name, size) for name, size in sizes.items()])
        if not self.widened(raw):
            return self.constants(raw, raw.shape[1:])
        self.most_tokens = most_tokens()
        return self.constants(raw, widths(raw.shape[1]))

    def widened(self, raw: RawTensor) -> bool:
        """Whether it becomes float32 only as it is used."""
        return raw.dtype != "F32"

    def constants(self, raw: RawTensor, widths: Sequence[int]) -> list[ov.Node]:
        """One for each so many columns of a matrix."""
        array = np.frombuffer(raw.buffer, KINDS[raw.dtype][0]).reshape(raw.shape)
        if len(widths) == 1 and isinstance(raw.buffer.obj, mmap.mmap):
            return [self._constant(array, raw.dtype)]
        found = []
        for end, width in zip(itertools.accumulate(widths), widths, strict=True):
            part = np.ascontiguousarray(array[:, end - width : end])
            room = self.scratch.room(part.nbytes)
            room.write(0, part)
            copy = self.kept(room).view(part.dtype).reshape(part.shape)
            found.append(self._constant(copy, raw.dtype))
        return found

    def _constant(self, array: Array, dtype: str) -> ov.Node:
        kind = KINDS[dtype][1]
        stored = self.shared(array, array.shape, kind)
        if kind == ov.Type.f32:
            return stored
        converted = op.convert(stored, "f32")
        # Unmarked, the conversion would be done once and kept: a second copy twice the size.
        converted.get_rt_info()["decompression_0"] = True
        return converted

    def take(self, name: str, size: tuple[int, ...]) -> RawTensor:
        """A tensor of the source; its pages will be handed back."""
        raw = self.source.take(name, size)
        if isinstance(raw.buffer.obj, mmap.mmap):
            self.mappings[id(raw.buffer.obj)] = raw.buffer.obj
        return raw

    def vector(self, lengths: Mapping[str, int]) -> ov.Node:
        """A norm's weight or a bias, or several end to end, as float32."""
        parts = [as_float32(self.source.take(name, (size,))) for name, size in lengths.items()]
        return op.constant(np.concatenate(parts))

    def kept(self, room: Room) -> Bytes:
        """What was written there; its pages will be handed back."""
        found = room.array()
        if room.mapping is not None:
            self.mappings[id(room.mapping)] = room.mapping
        return found

    def hand_back_pages(self) -> None:
        """Let the system have the resident pages; who reads them again reads the file again."""
        for mapping in tuple(self.mappings.values()):
            if hasattr(mmap, "MADV_DONTNEED"):  # not everywhere
                mapping.madvise(mmap.MADV_DONTNEED)

    def shared(self, array: Array, shape: tuple[int, ...], kind: ov.Type) -> ov.Node:
        """A constant that reads ``array`` in place."""
        self.held.append(array)
        tensor = ov.Tensor(array, ov.Shape(shape), kind)
        return op.constant(tensor, shared_memory=True)


def open_source(model: ModelInfo, config: RunnerConfig, tied: bool) -> Source:
    """The checkpoint, or random weights."""
    if config.load_format == "dummy":
        return RandomWeights(config)
    return Checkpoint(model, config, tied)


def stack(raws: Sequence[RawTensor]) -> RawTensor:
    """Matrices under one another; float32 where they are not stored alike."""
    if len(raws) == 1:
        return raws[0]
    alike = len({raw.dtype for raw in raws}) == 1
    parts = [np.frombuffer(raw.buffer, np.uint8) if alike else as_float32(raw) for raw in raws]
    joined = np.concatenate([part.reshape(-1) for part in parts])
    shape = (sum(raw.shape[0] for raw in raws), *raws[0].shape[1:])
    dtype = raws[0].dtype if alike else "F32"
    return RawTensor(raws[0].name, dtype, shape, joined.view(np.uint8).data)


def as_float32(raw: RawTensor) -> npt.NDArray[np.float32]:
    """A float32 copy."""
    values = np.empty(raw.shape, np.float32)
    widen(raw.buffer, raw.dtype, values.reshape(-1))
    return values


def widen(buffer: memoryview, dtype: str, values: npt.NDArray[np.float32]) -> None:
    """Numbers stored as ``dtype``, as float32 into ``values`` [n]."""
    stored = np.frombuffer(buffer, KINDS[dtype][0])
    if dtype == "BF16":
        bits = values.view(np.uint32)
        bits[:] = stored
        np.left_shift(bits, np.uint32(16), out=bits)
    else:
        values[:] = stored
