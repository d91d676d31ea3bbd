"""What packed weights take, and memory made ready for them while torch is still being imported."""

from __future__ import annotations

from typing import Any

from pagoda.models.weights import which_files
from pagoda.platform import BadCheckpoint, ModelInfo, RunnerConfig
from pagoda_cpu import hardware

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


def prepared_bytes(quantization: str | None, num_weights: int, itemsize: float) -> int:
    """What a linear layer's weights take once packed, scales counted in."""
    each = {None: float(itemsize), "int8": 1.01, "int4": 0.52}[quantization]
    return int(num_weights * each)


def provide(config: RunnerConfig, model: ModelInfo) -> Any:
    """A ``native.Provision`` of about what the weights will take: nothing where that is much of
    what is free, or where its thread would have no core to itself."""
    from pagoda_kernels_cpu import native

    itemsize = native.bfloat16_bytes if config.dtype == "bfloat16" else ITEMSIZE[config.dtype]
    needed = prepared_bytes(config.quantization, _num_weights(config, model), itemsize)
    _, free = hardware.memory()
    alone = hardware.num_threads(config.platform_options.get("cpu_threads")) == 1
    return native.Provision(0 if alone or 2 * needed > free else needed)


def _num_weights(config: RunnerConfig, model: ModelInfo) -> int:
    """By the size of the files; 0 where there are none, which is told when they are read."""
    try:
        files = which_files(model.path, config.load_format)
    except BadCheckpoint:
        return 0
    return files.num_bytes // ITEMSIZE.get(model.dtype, 4)
