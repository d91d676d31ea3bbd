"""Compiles whole graphs of the runner for TPUs that are not here; run in a process of its own,
since graphs traced for a TPU can never run in it.  Prints one JSON line a graph.

    python ahead_of_time.py TOPOLOGY... [--devices N] [--too-large]"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_model import make_runner

from pagoda_tpu.environment import variables
from pagoda_xla.environment import settle
from pagoda_xla.graphs import padding
from pagoda_xla.sampling import NUM_ENTRIES


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("topologies", nargs="+")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--too-large", action="store_true", help="a graph of 18 GiB")
    parser.add_argument("--steps-only", action="store_true", help="without the sampler's graphs")
    parser.add_argument("--table-blocks", type=int, help="columns of one step's block tables")
    options = parser.parse_args()
    settle(variables(list(range(options.devices)), 0, options.devices))
    with tempfile.TemporaryDirectory() as folder:
        runner = make_runner(Path(folder), options.devices, dtype="bfloat16", head_dim=128)
        runner.load()
        runner.init_kv_cache(40)
        if options.table_blocks:
            graphs = wide_table(runner, options.table_blocks)
        else:
            graphs = too_large(runner) if options.too_large else all_graphs(runner)
        for name, outputs in graphs:
            if options.steps_only and name not in ("decode", "prefill"):
                break
            proto = hlo_of(outputs)
            for topology in options.topologies:
                told = compiled(proto, topology, options.devices)
                print(json.dumps({"graph": name, "topology": topology, **told}), flush=True)


def all_graphs(runner: Any) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """(name, tensors of the traced graph): steps, then sampling.  What they read is made before
    the first: nothing may be run any more once a graph for a TPU is pending."""
    steps, sampler, runtime = runner._graphs, runner._sampler, runner.runtime
    shapes, rows, vocab = runner.buckets.shapes, 8, runner.info.vocab_size
    caches = [[fresh_cache(runner, layer) for layer in runner._layers] for _ in shapes]
    packed = [runtime.upload(padding(shape, rows)) for shape in shapes]
    hidden = runtime.filled((32, 256), runner.dtype, 0.0)
    logits = runtime.filled((rows, vocab), torch.float32, 0.0)
    picks = runtime.filled((2, rows), torch.int32, 0)
    numbers = runtime.filled((5, rows), torch.float32, 1.0)
    ints, floats = (
        runtime.filled((3, NUM_ENTRIES), dtype, 1) for dtype in (torch.int32, torch.float32)
    )
    words = runtime.filled((rows, vocab // 32), torch.int32, -1)
    runtime.interpret = False
    for shape, made, inputs in zip(shapes, caches, packed, strict=True):
        for layer, cache in zip(runner._layers, made, strict=True):
            layer.cache = cache
        name = "decode" if shape.tile == 1 else "prefill"
        yield name, [steps.trace(inputs, shape), *made]
    yield "argmax", [sampler._likeliest(hidden, picks)]
    yield "bias", [sampler._biased(logits, ints[:1], floats[:1])]
    yield "mask", [sampler._masked(logits, words)]
    yield "penalties", [sampler._penalised(logits, ints[:2], floats)]
    yield "random", [sampler._drawn_limited(logits, picks, numbers)]
    yield "logprobs", list(sampler._logprobs_of(logits, picks[0]))


def too_large(runner: Any) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Scores of 70,000 tokens at once, 18 GiB: more than a v5e has, less than a v6e."""
    queries = runner.runtime.filled((70_000, 256), torch.float32, 1.0)
    scores = queries @ queries.t()
    yield "scores", [torch.softmax(scores, -1) @ queries]


def wide_table(runner: Any, blocks: int) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """A decode step whose block tables have so many columns."""
    shape = dataclasses.replace(runner.buckets.shapes[0], blocks=blocks)
    packed = runner.runtime.upload(padding(shape, 8))
    runner.runtime.interpret = False
    hidden = runner._graphs.trace(packed, shape)
    yield "decode", [hidden, *(layer.cache for layer in runner._layers)]


def fresh_cache(runner: Any, layer: Any) -> torch.Tensor:
    axis = 1 if runner.runtime.num_devices > 1 else None
    found: torch.Tensor = runner.runtime.filled(layer.cache.shape, runner.dtype, 0.0, axis)
    return found


def hlo_of(outputs: list[torch.Tensor]) -> bytes:
    import torch_xla

    found: bytes = torch_xla._XLAC._get_xla_tensors_hlo_proto(outputs)
    return found


def compiled(proto: bytes, topology: str, num_devices: int) -> dict[str, Any]:
    """What libtpu makes of a graph for one chip, or several that share it."""
    from jax._src import compiler
    from jax._src.lib import xla_client
    from jax.experimental import topologies
    from jaxlib import _jax

    from pagoda_xla.torch_xla_runtime import explained

    module = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(proto))
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    chips = chips[:num_devices]
    settings = compiler.get_compile_options(
        num_replicas=1,
        num_partitions=num_devices,
        device_assignment=np.array([[chip.id for chip in chips]]),
        use_spmd_partitioning=num_devices > 1,
    )
    text = module.encode() if isinstance(module, str) else module
    try:
        program = chips[0].client.compile(text, _jax.DeviceList(tuple(chips)), settings)
    except Exception as error:
        told = explained(RuntimeError(str(error)), "step")
        return {"refused": type(told).__name__, "message": str(told)[:2000]}
    hlo = program.hlo_modules()[0].to_string()
    return {
        "chip": chips[0].device_kind,
        "kernels": hlo.count('custom_call_target="tpu_custom_call"'),
        "collectives": hlo.count("all-reduce(") + hlo.count("all-reduce-start("),
        "gathers": hlo.count("all-gather(") + hlo.count("all-gather-start("),
    }


if __name__ == "__main__":
    main()
