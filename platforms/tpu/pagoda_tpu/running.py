"""From a list of devices to a runner: the environment, then torch-xla's client, then the family."""

from __future__ import annotations

from pagoda.platform import (
    DeviceInfo,
    ModelInfo,
    ModelRunner,
    RunnerConfig,
    Unavailable,
)
from pagoda_tpu.buckets import RULE
from pagoda_tpu.chips import find_chips
from pagoda_tpu.environment import num_emulated, variables
from pagoda_xla.environment import settle

BLOCK_SIZE = 32
CPU_CACHE_BYTES = 1 << 30


def create_runner(
    config: RunnerConfig, model: ModelInfo, devices: tuple[DeviceInfo, ...]
) -> ModelRunner:
    """The runner, on the devices' chips; torch-xla starts here."""
    chips = [int(device.id) for device in devices] or [0]
    emulated = num_emulated()
    settle(variables(chips, len(find_chips()), emulated))
    from pagoda_tpu.pallas_kernel import PallasKernel
    from pagoda_xla.family import XlaFamily
    from pagoda_xla.gather_attention import GatherKernel
    from pagoda_xla.runner import XlaRunner
    from pagoda_xla.torch_xla_runtime import TorchXlaRuntime

    try:
        runtime = TorchXlaRuntime(chips[0] if emulated else 0, len(chips))
    except RuntimeError as error:  # what torch-xla raises when its client cannot start
        raise Unavailable(
            f"the TPU cannot be started: {error}",
            "whether another process uses it: pagoda doctor",
        ) from error
    asked = config.platform_options.get("tpu_attention") or "pallas"
    kernel = GatherKernel() if asked == "gather" else PallasKernel(runtime)
    family = XlaFamily(
        runtime=runtime,
        kernels=[kernel],
        rule=RULE,
        default_block_size=BLOCK_SIZE,
        most_cache_bytes=CPU_CACHE_BYTES if emulated else None,
    )
    return XlaRunner(config, model, family)
