"""A model from host memory to the devices, once it is loaded: stacked weights are filled there
without a graph a tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.embedding import Embedding
from pagoda_torch.layers.linear import Linear
from pagoda_xla.family import Runtime

JOINING = ("output", "down")
"""Names that models give the linear layers whose inputs are cut among devices; of the others the
outputs are."""


class Placer:
    """Walks a model's objects and replaces every tensor they hold, shared ones once."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self._placed: dict[int, tuple[Tensor, Tensor]] = {}  # the host's, kept so that ids last
        self._seen: set[int] = set()

    def place(self, owner: Any) -> None:
        """Everything below ``owner``; its own attributes are replaced."""
        if id(owner) in self._seen or isinstance(owner, (Attention, ModelContext)):
            return
        self._seen.add(id(owner))
        for name, value in vars(owner).items():
            if isinstance(value, Tensor):
                setattr(owner, name, self._on_device(value, self._axis(owner, name)))
            elif isinstance(value, Linear):
                self._linear(value, 1 if name in JOINING else 0)
            elif isinstance(value, (list, tuple)):
                for part in value:
                    self._below(part)
            else:
                self._below(value)

    def _below(self, value: Any) -> None:
        if type(value).__module__.startswith("pagoda_torch.") and hasattr(value, "__dict__"):
            self.place(value)

    def _linear(self, linear: Linear, axis: int) -> None:
        self._seen.add(id(linear))
        linear.weight = self._on_device(linear.weight, axis)
        if linear.bias is not None:
            linear.bias = self._on_device(linear.bias, 0 if axis == 0 else None)

    def _axis(self, owner: Any, name: str) -> int | None:
        return 0 if isinstance(owner, Embedding) and name == "weight" else None

    def _on_device(self, tensor: Tensor, axis: int | None) -> Tensor:
        if id(tensor) not in self._placed:
            # A dimension that does not divide stays whole on every device.
            divides = axis is not None and tensor.shape[axis] % self.runtime.num_devices == 0
            placed = self.runtime.shard(tensor, axis if divides else None)
            self._placed[id(tensor)] = tensor, placed
        return self._placed[id(tensor)][1]
