"""From a device to a runner: the environment, then torch-neuronx's client, then the family."""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.platform import (
    DeviceInfo,
    ModelInfo,
    ModelRunner,
    RunnerConfig,
    Unavailable,
    UnsupportedFeature,
)
from pagoda_neuron.buckets import RULE
from pagoda_neuron.environment import emulated, variables

BLOCK_SIZE = 32
CPU_CACHE_BYTES = 1 << 30
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


def choose_attention(config: RunnerConfig, device: DeviceInfo) -> tuple[str, ...]:
    """Names of the kernels to try, in order."""
    asked = config.platform_options.get("neuron_attention")
    has_nki = device.details.get("nki") == "yes"
    if asked == "nki":
        if not has_nki:
            raise UnsupportedFeature(
                f"no NKI kernels on {device.name}: they need Trainium 2 or later and AWS's nki",
                "--neuron-attention gather",
            )
        return ("nki",)
    return ("nki", "gather") if has_nki and asked is None else ("gather",)


def create_runner(
    config: RunnerConfig, model: ModelInfo, devices: Sequence[DeviceInfo]
) -> ModelRunner:
    """The runner, on the first device's core; torch-xla starts here."""
    from pagoda_xla.environment import settle

    if len(devices) > 1 or config.tensor_parallel_size > 1:
        raise UnsupportedFeature("neuron runs a model on one core so far", "tensor_parallel_size=1")
    on_cpu = emulated()
    device = devices[0] if devices else DeviceInfo("0", "core 0")
    names = choose_attention(config, device)
    settle(variables(int(device.id), on_cpu))
    if not on_cpu:
        import torch_neuronx  # noqa: F401  it brings torch-xla its Neuron backend
    from pagoda_neuron.nki_kernel import NkiKernel
    from pagoda_neuron.runtime import NeuronRuntime
    from pagoda_xla.attention import Kernel
    from pagoda_xla.family import XlaFamily
    from pagoda_xla.gather_attention import GatherKernel
    from pagoda_xla.runner import XlaRunner

    try:
        runtime = NeuronRuntime(device.memory_bytes)
    except RuntimeError as error:  # what torch-xla raises when its client cannot start
        raise Unavailable(
            f"NeuronCore {device.id} cannot be started: {error}",
            "whether another process uses it: neuron-ls; another core with --device neuron:N",
        ) from error
    kernels: dict[str, Kernel] = {
        "nki": NkiKernel(ITEM_BYTES.get(config.dtype, 4)),
        "gather": GatherKernel(),
    }
    family = XlaFamily(
        runtime=runtime,
        kernels=[kernels[name] for name in names],
        rule=RULE,
        default_block_size=BLOCK_SIZE,
        most_cache_bytes=CPU_CACHE_BYTES if on_cpu else None,
    )
    return XlaRunner(config, model, family)
