"""The runtime seam over torch-xla: the one module here that imports it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as metrics
import torch_xla.distributed.spmd as spmd
import torch_xla.runtime as xr
from torch import Tensor

from pagoda.platform import OutOfMemory, PagodaError
from pagoda_xla.host_memory import host_memory
from pagoda_xla.pallas_splice import splice

EXHAUSTED = ("RESOURCE_EXHAUSTED", "Ran out of memory", "out of memory")


class TorchXlaRuntime:
    """Implements ``family.Runtime``.  Several devices of one process share a model by SPMD."""

    def __init__(self, index: int = 0, num_devices: int = 1):
        self.num_devices = num_devices
        self._mesh: spmd.Mesh | None = None
        if num_devices > 1:
            xr.use_spmd()
            found = xr.global_runtime_device_count()
            if found != num_devices:
                raise PagodaError(
                    f"torch-xla shares a model among all devices of the process, {found} here, not"
                    f" {num_devices}",
                    f"tensor_parallel_size={found}, or fewer devices made visible",
                )
            self._mesh = spmd.Mesh(np.arange(num_devices), (num_devices,), ("x",))
            self.device = torch_xla.device()
        else:
            self.device = torch_xla.device(index)
        self.emulated = xr.device_type() == "CPU"
        self.interpret = self.emulated  # Pallas kernels as plain HLO

    def memory(self) -> tuple[int, int]:
        if self.emulated:
            return host_memory()
        found = xm.get_memory_info(self.device)
        return found["bytes_limit"] - found["bytes_used"], found["bytes_limit"]

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def shard(self, tensor: Tensor, axis: int | None) -> Tensor:
        return self._cut(tensor.to(self.device), axis)

    def whole(self, tensor: Tensor) -> Tensor:
        return self._cut(tensor, None)

    def filled(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        value: float,
        axis: int | None = None,
    ) -> Tensor:
        made = self._cut(torch.full(tuple(shape), value, dtype=dtype, device=self.device), axis)
        torch_xla.sync()  # memory of its own, which can be given to a graph and taken back
        return made

    def _cut(self, tensor: Tensor, axis: int | None) -> Tensor:
        if self._mesh is not None:
            spmd.mark_sharding(tensor, self._mesh, _along(tensor.dim(), axis))
        return tensor

    def compile(
        self, name: str, function: Callable[..., Any], most_graphs: int
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def named(*arguments: Any) -> Any:
            return function(*arguments)

        named.__name__ = name

        def run(*arguments: Any) -> Any:
            try:
                with torch.no_grad():
                    return torch_xla.compile(
                        named, full_graph=True, name=name, max_different_graphs=most_graphs
                    )(*arguments)
            except RuntimeError as error:
                raise explained(error, name) from error

        return run

    def download(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def call_pallas(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Tensor],
        axes: Sequence[int | None],
        **static: Any,
    ) -> Tensor:
        """The result of a Pallas function, in the graph being traced.  Where devices share the
        model each calls it on its part: ``axes`` says along which axis the arguments are cut, and
        the result is cut as the first is."""
        if self._mesh is None:
            return splice(function, arguments, self.interpret, **static)
        parts = [
            spmd.enable_manual_sharding(x, _along(x.dim(), axis), mesh=self._mesh).global_tensor
            for x, axis in zip(arguments, axes, strict=True)
        ]
        found = splice(function, parts, self.interpret, **static)
        first = arguments[0]
        whole: Tensor = spmd.disable_manual_sharding(
            found, _along(first.dim(), axes[0]), first.shape, mesh=self._mesh
        ).global_tensor
        return whole

    def num_compiles(self) -> int:
        return _count("CompileTime")

    def num_aliases(self) -> int:
        """Buffers that the graphs compiled so far update in place, summed."""
        found = metrics.metric_data("InputOutputAliasCount")
        return int(found[1]) if found else 0

    def fallbacks(self) -> list[str]:
        """Operations that were run on the host because XLA has none."""
        found: list[str] = torch_xla._XLAC._get_executed_fallback_ops()
        return found


def _along(num_axes: int, axis: int | None) -> tuple[int | None, ...]:
    """A partition of the mesh's one axis along ``axis``; None: whole on every device."""
    return tuple(0 if i == axis else None for i in range(num_axes))


def _count(metric: str) -> int:
    found = metrics.metric_data(metric)
    return int(found[0]) if found else 0


def explained(error: RuntimeError, graph: str) -> PagodaError:
    """The compiler's complaint as an error of ours, its own words kept."""
    text = str(error).strip()
    if any(word in text for word in EXHAUSTED):
        return OutOfMemory(
            f"graph {graph!r} does not fit the device's memory: {text}",
            "a smaller --max-num-batched-tokens or --max-num-seqs, or a lower"
            " --gpu-memory-utilization",
        )
    return PagodaError(f"graph {graph!r} failed: {text}")
