"""A Pallas kernel inside a torch-xla graph: lowered by JAX once for each set of shapes, then part
of the graph like any operation.

JAX is imported late, after torch-xla has taken the device.  The private names of jaxlib are safe as
long as the pins are: torch-xla 2.9.0 is the last of its line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_xla.core.xla_builder as xb
from torch import Tensor

_lowered: dict[Any, Any] = {}


def splice(
    function: Callable[..., Any], arguments: Sequence[Tensor], interpret: bool, **static: Any
) -> Tensor:
    """The function's one result for tensors of a graph being traced.

    interpret: as plain HLO, for devices that are no TPU."""
    shapes = tuple((tuple(x.shape), x.dtype) for x in arguments)
    key = (function, interpret, shapes, tuple(sorted(static.items())))
    if key not in _lowered:
        partial = functools.partial(function, interpret=interpret, **static)
        proto = _interpreted(partial, shapes) if interpret else _for_tpu(partial, shapes)
        _lowered[key] = xb.computation_from_module_proto("pallas", proto)
    found: Tensor = xb.xla_computation_as_func(_lowered[key], "pallas")(list(arguments))[0]
    return found


def _shapes_of(shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Any]:
    import jax
    import jax.numpy as jnp

    dtypes = {torch.float32: jnp.float32, torch.bfloat16: jnp.bfloat16, torch.int32: jnp.int32}
    return [jax.ShapeDtypeStruct(shape, dtypes[dtype]) for shape, dtype in shapes]


def _interpreted(function: Callable[..., Any], shapes: Any) -> bytes:
    import jax

    lowered = jax.jit(function, keep_unused=True).lower(*_shapes_of(shapes))
    found: bytes = lowered.compiler_ir("hlo").as_serialized_hlo_module_proto()
    return found


def _for_tpu(function: Callable[..., Any], shapes: Any) -> bytes:
    """Through ``jax.export``, which writes Mosaic in a version that older libtpus read."""
    import jax
    import jax.export
    from jax._src.lib import xla_client

    exported = jax.export.export(jax.jit(function, keep_unused=True), platforms=["tpu"])
    module = str(exported(*_shapes_of(shapes)).mlir_module())
    computation = xla_client._xla.mlir.mlir_module_to_xla_computation(
        module, use_tuple_args=False, return_tuple=False
    )
    found: bytes = computation.as_serialized_hlo_module_proto()
    return found
