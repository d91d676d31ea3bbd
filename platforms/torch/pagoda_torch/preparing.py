"""Linear layers laid out for their products while the checkpoint is still being read.

Each as soon as its weight is whole: then few weights are in memory twice.  Where the platform
takes a weight's parts as the file has them, none is: they are never copied before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pagoda_torch.layers.linear import Linear

PLAIN = (torch.float32, torch.bfloat16, torch.float16)


class Preparing:
    """Offered and told of every tensor; ``finish`` prepares what is left."""

    def __init__(
        self, linears: Sequence[Linear], targets: Mapping[str, Tensor], takes_parts: bool = False
    ):
        self.left = list(linears)
        by_storage = {_storage(x.weight): x for x in linears if x.prepares_early}
        self.linear_of = {
            name: by_storage[_storage(target)]
            for name, target in targets.items()
            if _storage(target) in by_storage
        }
        names: dict[int, list[str]] = {id(x): [] for x in by_storage.values()}
        for name, linear in self.linear_of.items():
            names[id(linear)].append(name)
        self.missing = {one: len(found) for one, found in names.items()}
        self.place_of: dict[str, int] = {}  # of parts that are whole rows
        for linear in by_storage.values() if takes_parts else ():
            parts = {name: targets[name] for name in names[id(linear)]}
            if _stacked(linear.weight, list(parts.values())):
                self.place_of |= {name: int(part.storage_offset()) for name, part in parts.items()}
        self.parts: dict[int, dict[int, Tensor]] = {id(x): {} for x in by_storage.values()}

    def take(self, name: str, tensor: Tensor) -> bool:
        """Whether ``tensor`` will be prepared from where it lies; else it is to be copied."""
        if name not in self.place_of:
            return False
        linear = self.linear_of[name]
        part = tensor if tensor.dtype in PLAIN else tensor.to(linear.weight.dtype)
        self.parts[id(linear)][self.place_of[name]] = part
        self.filled(name)
        return True

    def filled(self, name: str) -> None:
        linear = self.linear_of.pop(name, None)
        if linear is None:
            return
        self.missing[id(linear)] -= 1
        if not self.missing[id(linear)]:
            self.left.remove(linear)
            parts = self.parts.pop(id(linear))
            linear.prepare([parts[place] for place in sorted(parts)])

    def finish(self) -> None:
        for linear in self.left:
            linear.prepare()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _stacked(weight: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether the parts are whole rows, one behind the other."""
    rows = all(x.dim() == 2 and x.is_contiguous() and x.shape[1] == weight.shape[1] for x in parts)
    return rows and sum(map(len, parts)) == len(weight)
