"""The platform's own code executed by XLA on the CPU, the Pallas kernel interpreted in graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pagoda.models.info import read_model_info
from pagoda.platform import PagodaError, Unavailable

PROMPTS = 3


@pytest.fixture(scope="module", params=["pallas", "gather"])
def runner(torch_xla: Any, request: pytest.FixtureRequest) -> Any:
    """stories260K, warmed up."""
    folder: Path = request.getfixturevalue("stories260k") / "hf"
    make = module("tiny_model").make_runner
    before = set(torch_xla._XLAC._get_executed_fallback_ops())
    found = make(folder, attention=request.param, info=read_model_info(folder))
    aliased = found.runtime.num_aliases()
    found.load()
    found.init_kv_cache(40)
    found.warm_up()
    found.fallbacks_before, found.aliased = before, found.runtime.num_aliases() - aliased
    yield found
    found.close()


def module(name: str) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_golden_tokens_with_two_steps_in_flight(runner: Any, stories260k: Path) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())[:PROMPTS]
    compiled = runner.num_compiles
    found = module("tiny_model").greedy(runner, [g["prompt_ids"] for g in golden], 40)
    assert found == [g["output_ids"][:40] for g in golden]
    assert runner.num_compiles == compiled, "something was compiled after warm-up"
    on_host = set(runner.runtime.fallbacks()) - runner.fallbacks_before
    assert not on_host, "these ran on the host"


def test_caches_are_updated_in_place(runner: Any) -> None:
    """Every layer's buffer is where it was, and every graph of a step gives it to XLA."""
    import torch_xla

    def buffers() -> list[int]:
        caches = [layer.cache for layer in runner._layers]
        return [torch_xla._XLAC._unsafe_buffer_pointer(cache) for cache in caches]

    before = buffers()
    module("tiny_model").greedy(runner, [[1, 2, 3], [4]], 3)
    assert buffers() == before


def test_every_graph_that_stores_gives_its_caches_to_xla(runner: Any) -> None:
    """By torch-xla's own count over warm-up: a buffer a layer in each step's graph and in the copy
    of blocks, and what slots sampled last in each graph that picks tokens, unless an earlier runner
    compiled that."""
    stored = len(runner._layers) * (len(runner.buckets.shapes) + 1)
    picking = 3 * len(runner.buckets.rows)
    assert runner.aliased - stored in (0, picking)


def test_no_graph_takes_64_bits(torch_xla: Any, runner: Any) -> None:
    """No argument of a graph has 64 bits; what torch's own index operations ask for is converted
    inside.  The graphs are run afterwards, on padding."""
    from pagoda_xla.graphs import padding
    from pagoda_xla.sampling import NUM_ENTRIES

    runtime, sampler, vocab = runner.runtime, runner._sampler, runner.info.vocab_size
    for shape in runner.buckets.shapes:
        packed = runtime.upload(padding(shape, 8))
        check_arguments(runner._graphs.trace(packed, shape))
    logits = runtime.filled((8, vocab), torch.float32, 0.0)
    picks = runtime.upload(np.zeros((2, 8), np.int32))
    ints = runtime.upload(np.zeros((2, NUM_ENTRIES), np.int32))
    floats = runtime.upload(np.ones((3, NUM_ENTRIES), np.float32))
    words = runtime.upload(np.zeros((8, vocab // 32), np.int32))
    check_arguments(sampler._biased(logits, ints[:1], floats[:1]))
    check_arguments(sampler._masked(logits, words))
    check_arguments(sampler._penalised(logits, ints, floats))
    check_arguments(sampler._drawn_limited(logits, picks, floats[:, :8].repeat(2, 1)[:5]))
    check_arguments(sampler._logprobs_of(logits, picks[0])[1])


def check_arguments(result: Any) -> None:
    import torch_xla

    text = torch_xla._XLAC._get_xla_tensors_hlo([result])
    arguments = [line for line in text.splitlines() if "parameter(" in line]
    assert arguments
    assert not [line for line in arguments if "s64[" in line or "f64[" in line]
    torch_xla.sync()


def test_a_graph_beyond_its_bound_is_an_error(torch_xla: Any, runner: Any) -> None:
    runtime = runner.runtime
    graph = runtime.compile("doubled", lambda x: x + x, 1)
    for _ in range(2):
        graph(runtime.upload(np.zeros(3, np.float32)))
    with pytest.raises(PagodaError, match="doubled"):
        graph(runtime.upload(np.zeros(4, np.float32)))


def test_a_value_read_back_while_tracing_is_an_error(torch_xla: Any, runner: Any) -> None:
    runtime = runner.runtime
    graph = runtime.compile("branching", lambda x: x if x.sum().item() > 0 else -x, 1)
    with pytest.raises(PagodaError, match="branching"):
        graph(runtime.upload(np.zeros(3, np.float32)))


def test_the_process_keeps_its_devices(torch_xla: Any) -> None:
    from pagoda_tpu.environment import variables
    from pagoda_xla.environment import settle

    with pytest.raises(Unavailable, match="another process"):
        settle(variables([0], 1, 0))
