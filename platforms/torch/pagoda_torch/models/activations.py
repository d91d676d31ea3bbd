"""Activations of plain (ungated) MLPs, by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pagoda.platform import BadCheckpoint
from pagoda_torch.ops import Ops


def plain_activation(name: str, ops: Ops) -> Callable[[Tensor], Tensor]:
    """The function for a config's ``activation_function``.  Raises BadCheckpoint."""
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
        "swish": torch.nn.functional.silu,
        "gelu": ops.gelu,
        "gelu_new": ops.gelu_tanh,
        "gelu_fast": ops.gelu_tanh,
        "gelu_pytorch_tanh": ops.gelu_tanh,
    }
    if name not in known:
        raise BadCheckpoint(f"activation {name!r} is not understood", f"one of {', '.join(known)}")
    return known[name]
