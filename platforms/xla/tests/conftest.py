"""The runner without torch-xla: a runtime that computes at once, and made-up steps."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from shared_assets import assets, stories260k
from torch import Tensor

from pagoda.platform import BlockTable, OutOfMemory, PagodaError, ScheduledBatch
from pagoda_torch.trial import trial_batch

__all__ = ["EagerRuntime", "assets", "stories260k"]


class EagerRuntime:
    """Implements ``pagoda_xla.family.Runtime`` by running every graph as it is called.

    It counts as compiled what a lazy runtime would compile: each graph for each set of shapes."""

    device = torch.device("cpu")
    num_devices = 1

    def __init__(self) -> None:
        self.compiled: set[tuple[str, Any]] = set()
        self.too_large: str | None = None  # a graph whose name begins so does not fit

    def memory(self) -> tuple[int, int]:
        return 4 << 30, 8 << 30

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        assert array.dtype in (np.int32, np.float32), f"{array.dtype} goes to the device"
        return torch.from_numpy(array.copy())

    def shard(self, tensor: Tensor, axis: int | None) -> Tensor:
        return tensor.clone()

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def filled(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        value: float,
        axis: int | None = None,
    ) -> Tensor:
        return torch.full(tuple(shape), value, dtype=dtype)

    def compile(
        self, name: str, function: Callable[..., Any], most_graphs: int
    ) -> Callable[..., Any]:
        shapes: set[Any] = set()

        def run(*arguments: Tensor) -> Any:
            if self.too_large and name.startswith(self.too_large):
                raise OutOfMemory(f"graph {name!r} does not fit")
            shapes.add(tuple(tuple(x.shape) for x in arguments))
            if len(shapes) > most_graphs:
                raise PagodaError(f"graph {name!r}: {len(shapes)} sets of shapes")
            self.compiled |= {(name, found) for found in shapes}
            with torch.no_grad():
                return function(*arguments)

        return run

    def download(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def num_compiles(self) -> int:
        return len(self.compiled)


@pytest.fixture
def runtime() -> EagerRuntime:
    return EagerRuntime()


@pytest.fixture(params=["eager", "torch-xla"])
def any_runtime(request: pytest.FixtureRequest) -> Any:
    """The eager runtime, and torch-xla's on the CPU where it is installed."""
    if request.param == "eager":
        return EagerRuntime()
    if importlib.util.find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed here: ci/check_xla.sh has an environment with it")
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    from pagoda_xla.torch_xla_runtime import TorchXlaRuntime

    return TorchXlaRuntime()


@pytest.fixture
def rng() -> np.random.Generator:
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture
def ragged() -> Callable[..., ScheduledBatch]:
    """A step from lists of query and context lengths, blocks in random order."""

    def make(
        rng: np.random.Generator, queries: Sequence[int], contexts: Sequence[int], block_size: int
    ) -> ScheduledBatch:
        counts = [-(-(q + c) // block_size) for q, c in zip(queries, contexts, strict=True)]
        blocks = rng.permutation(sum(counts) + 3).astype(np.int32)
        ids = np.full((len(queries), max(counts) + 1), -7, np.int32)
        for row, count in enumerate(counts):
            ids[row, :count] = blocks[sum(counts[:row]) : sum(counts[:row]) + count]
        rows = len(queries)
        return ScheduledBatch(
            slots=rng.permutation(rows + 2)[:rows].astype(np.int32),
            admitted=np.array(contexts) == 0,
            query_start=np.cumsum([0, *queries], dtype=np.int32),
            token_ids=rng.integers(0, 99, sum(queries)).astype(np.int32),
            context_lens=np.array(contexts, np.int32),
            block_tables=(BlockTable(ids, np.array(counts, np.int32)),),
            sample_rows=np.arange(rows, dtype=np.int32),
            sampling=trial_batch(0, 1, rows).sampling,
        )

    return make
