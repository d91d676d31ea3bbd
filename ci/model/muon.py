"""Muon: momentum whose matrix updates are made orthogonal.

With few texts and many passes it reaches a lower held-out loss than Adam does. Matrices of one
size are stacked, so that one step is a few batched products and not hundreds of small ones.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest orthogonal matrix to each in a stack, nearly, by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon for matrices; steps are scaled to the size that Adam's would have."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_size: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_size[parameter.shape].append(parameter)
            for size, parameters in by_size.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                buffers = [
                    self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters
                ]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                looking_ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonal(torch.stack(list(looking_ahead))).to(parameters[0].dtype)
                scale = 0.2 * max(size) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * scale)
