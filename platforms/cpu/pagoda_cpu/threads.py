"""How many threads torch and the kernels compute with, set when work begins.

Not when a runner is made: several may live in one process, and the last one made would rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pagoda_kernels_cpu import native


@dataclass(frozen=True)
class Threads:
    """A runner's number of threads."""

    count: int

    def use(self) -> None:
        """Costs nothing where it is in force already."""
        if torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)
        if native.num_threads() != self.count:
            native.set_num_threads(self.count)
