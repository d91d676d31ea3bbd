"""Linear layers laid out for their products while the checkpoint is still being read.

Each as soon as its weight is whole: then few weights are in memory twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pagoda_torch.layers.linear import Linear


class Preparing:
    """Told of every tensor that is filled; ``finish`` prepares what is left."""

    def __init__(self, linears: Sequence[Linear], targets: Mapping[str, Tensor]):
        self.left = list(linears)
        by_storage = {_storage(x.weight): x for x in linears if x.prepares_early}
        self.linear_of = {
            name: by_storage[_storage(target)]
            for name, target in targets.items()
            if _storage(target) in by_storage
        }
        self.missing = {id(x): 0 for x in by_storage.values()}
        for linear in self.linear_of.values():
            self.missing[id(linear)] += 1

    def filled(self, name: str) -> None:
        linear = self.linear_of.pop(name, None)
        if linear is None:
            return
        self.missing[id(linear)] -= 1
        if not self.missing[id(linear)]:
            self.left.remove(linear)
            linear.prepare()

    def finish(self) -> None:
        for linear in self.left:
            linear.prepare()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
