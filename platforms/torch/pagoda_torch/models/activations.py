"""Activations of MLPs by the names that configs use, as names of ops."""

from __future__ import annotations

from pagoda.platform import BadCheckpoint

PLAIN = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
GATED = {
    "silu": "silu_and_mul",
    "swish": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_new": "gelu_tanh_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
    "relu": "relu_and_mul",
}


def plain_activation(name: str) -> str:
    """The op for a config's ``activation_function``.  Raises BadCheckpoint."""
    return _known(PLAIN, "activation_function", name)


def gated_activation(name: str) -> str:
    """The op for a gated MLP's ``hidden_act``.  Raises BadCheckpoint."""
    return _known(GATED, "hidden_act", name)


def _known(ops: dict[str, str], key: str, name: str) -> str:
    if name not in ops:
        raise BadCheckpoint(f"{key} {name!r} is not understood", f"one of {', '.join(ops)}")
    return ops[name]
