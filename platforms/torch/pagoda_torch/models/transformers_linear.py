"""A transformers model's linear layers on the op table, for a platform's own products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.linear import Linear


class ModuleLinear(Linear):
    """A ``Linear`` over the weight of an ``nn.Linear``, whose forward it takes over."""

    prepares_early = False

    def __init__(self, context: ModelContext, module: nn.Linear, loaded: Callable[[], None]):
        self.sizes = [module.out_features]
        self.weight, self.bias = module.weight.data, module.bias
        self.module, self.loaded = module, loaded
        self._ops = context.ops
        context.linears.append(self)
        module.forward = self  # type: ignore[method-assign, assignment]

    def __call__(self, x: Tensor) -> Tensor:
        flat = super().__call__(x.reshape(-1, x.shape[-1]))
        return flat.view(*x.shape[:-1], -1)

    def prepare(self, parts: Sequence[Tensor] = ()) -> None:
        """Also lets go of the loaded weight, which the prepared one stands for from now on."""
        self.loaded()
        super().prepare(parts)
        kept = self.weight if isinstance(self.weight, Tensor) else self.module.weight.new_empty(0)
        self.module._parameters["weight"] = nn.Parameter(kept, requires_grad=False)


def take_over_linears(model: nn.Module, context: ModelContext, loaded: Callable[[], None]) -> None:
    """Route every plain ``nn.Linear`` through the op table; ``loaded`` is called once the loader is
    done with their weights."""
    for module in model.modules():
        if type(module) is nn.Linear:
            ModuleLinear(context, module, loaded)
