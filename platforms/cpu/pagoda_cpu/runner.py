"""The torch runner with what a CPU brings: threads, attention, products."""

from __future__ import annotations

from functools import partial
from typing import Any

from pagoda.platform import ModelInfo, RunnerConfig
from pagoda_cpu import hardware
from pagoda_cpu.attention import cpu_attention
from pagoda_cpu.device import CpuDevice
from pagoda_cpu.ops import CpuOps
from pagoda_cpu.plugin import KV_DTYPES, QUANTIZATIONS
from pagoda_cpu.provision import prepared_bytes
from pagoda_cpu.threads import Threads
from pagoda_torch.family import TorchFamily
from pagoda_torch.runner import DTYPES, TorchRunner

MOST_CACHE_BYTES = 4 << 30


def cpu_runner(config: RunnerConfig, model: ModelInfo, provision: Any) -> TorchRunner:
    """The runner, nothing loaded yet; its weights will lie in what the ``provision`` has."""
    options = config.platform_options
    threads = Threads(hardware.num_threads(options.get("cpu_threads")))
    attention = str(options.get("cpu_attention") or "native")
    family = TorchFamily(
        device=CpuDevice(threads, provision.idle),
        attention=[cpu_attention(attention, config.kv_cache_dtype, threads)],
        ops=CpuOps(DTYPES[config.dtype], config.quantization, threads).table(),
        kv_dtypes=KV_DTYPES,
        quantizations=QUANTIZATIONS,
        prepares_parts=True,
        prepared_bytes=partial(prepared_bytes, config.quantization),
        most_cache_bytes=MOST_CACHE_BYTES,
        loaded=provision.end,
    )
    return TorchRunner(config, model, family)
