"""The torch runner over interpreted kernels, tuned as for a named architecture."""

from __future__ import annotations

from pagoda.platform import ModelInfo, RunnerConfig
from pagoda_torch.family import TorchFamily
from pagoda_torch.runner import TorchRunner
from pagoda_triton_interpret import sanitizer
from pagoda_triton_interpret.device import InterpretedDevice
from pagoda_triton_interpret.interpreter import install
from pagoda_triton_interpret.plugin import NUM_UNITS

MOST_CACHE_BYTES = 256 << 20


class InterpretedRunner(TorchRunner):
    """What a GPU's runner is, with one race allowed: rows that are padding share a slot."""

    def load(self) -> None:
        super().load()
        sanitizer.shared_places.add(self._last_tokens[-1].data_ptr())


def make_runner(config: RunnerConfig, model: ModelInfo, arch: str) -> InterpretedRunner:
    """Turn the interpreter on, before anything imports Triton.  A process has one architecture."""
    install()
    from pagoda_kernels_triton import tuning
    from pagoda_torch.triton.attention import TritonAttention
    from pagoda_torch.triton.ops import OPS

    tuning.assume(tuning.Target(arch, NUM_UNITS))
    device = InterpretedDevice()
    family = TorchFamily(
        device=device,
        attention=[TritonAttention()],
        ops=OPS,
        graphs=device,
        most_cache_bytes=MOST_CACHE_BYTES,
    )
    return InterpretedRunner(config, model, family)
