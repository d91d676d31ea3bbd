"""A checkpoint as float32 arrays, or seeded random ones of the same names and shapes."""

from __future__ import annotations

import numpy as np

from pagoda.models.shape import LlamaShape
from pagoda.models.weights import RawTensor, iter_weights, list_weights
from pagoda.platform.batch import Float32
from pagoda.platform.errors import BadCheckpoint
from pagoda.platform.types import ModelInfo, RunnerConfig

_WORDS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


def load_weights(shape: LlamaShape, model: ModelInfo, config: RunnerConfig) -> dict[str, Float32]:
    """Every tensor of ``shape``.  Raises BadCheckpoint, naming what is missing, extra or of
    another shape."""
    if config.load_format == "dummy":
        return random_weights(shape, config.seed)
    expected = shape.tensors()
    found = list_weights(model.path, config.load_format)
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and not _needless(name, shape)]
    if missing or extra:
        raise BadCheckpoint(
            f"{model.path} does not hold a {model.architecture} as its config.json describes it:"
            f" missing {_some(missing)}; unexpected {_some(extra)}"
        )
    for name, size in expected.items():
        if found[name].shape != size:
            raise BadCheckpoint(
                f"{model.path}: {name} is {list(found[name].shape)}, config.json says {list(size)}"
            )
    raw = iter_weights(model.path, config.load_format, config.show_progress)
    return {tensor.name: as_float32(tensor) for tensor in raw if tensor.name in expected}


def as_float32(tensor: RawTensor) -> Float32:
    """A float32 copy of a floating-point tensor."""
    if tensor.dtype == "BF16":  # the upper half of a float32
        bits = np.frombuffer(tensor.buffer, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor.shape)
    if tensor.dtype not in _WORDS:
        raise BadCheckpoint(f"{tensor.name} is {tensor.dtype}: not a dtype read here")
    return (
        np.frombuffer(tensor.buffer, _WORDS[tensor.dtype]).astype(np.float32).reshape(tensor.shape)
    )


def random_weights(shape: LlamaShape, seed: int) -> dict[str, Float32]:
    """Matrices that keep the size of what passes through, norms of 1, biases of 0."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Float32] = {}
    for name, size in shape.tensors().items():
        if name.endswith("norm.weight"):
            weights[name] = np.ones(size, np.float32)
        elif name.endswith(".bias"):
            weights[name] = np.zeros(size, np.float32)
        else:
            weights[name] = rng.standard_normal(size, np.float32) / np.float32(size[1] ** 0.5)
    return weights


def _needless(name: str, shape: LlamaShape) -> bool:
    """What old checkpoints carry along: RoPE tables, and the tied output matrix again."""
    return name.endswith("rotary_emb.inv_freq") or (shape.tied and name == "lm_head.weight")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing"
