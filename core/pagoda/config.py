"""Engine settings: one frozen record, built once, from which the command line is generated too."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.platform.errors import InvalidValue, PagodaError
from pagoda.platform.types import EMPTY


def setting(
    default: Any, help: str, choices: tuple[str, ...] = (), low: float | None = None
) -> Any:
    """A field with its help text, allowed words and smallest value; the CLI reads these too."""
    metadata = {"help": help, "choices": choices, "low": low}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "must be true or false"),
    int: ((int,), "must be a whole number"),
    float: ((int, float), "must be a number"),
    str: ((str,), "must be text"),
}


def check_settings(record: Any) -> None:
    """Raise InvalidValue where a settings record's value is of another type than its annotation
    says, no allowed word or too small."""
    hints = typing.get_type_hints(type(record))
    for f in dataclasses.fields(record):
        value, choices, low = getattr(record, f.name), f.metadata["choices"], f.metadata["low"]
        hint = hints[f.name]
        optional = isinstance(hint, types.UnionType)  # kind | None
        if value is None and optional:
            continue
        if choices and value not in choices:
            raise InvalidValue(f.name, value, f"must be one of {', '.join(choices)}")
        kind = typing.get_args(hint)[0] if optional else hint
        if kind in _KINDS:
            kinds, allowed = _KINDS[kind]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise InvalidValue(f.name, value, allowed)
        if low is not None and value < low:
            raise InvalidValue(f.name, value, f"must be at least {low}")


@dataclass(frozen=True)
class EngineConfig:
    """What a user may choose about an engine; names and defaults follow vLLM's where it has one.

    None means: not chosen, so the platform's or the model's own answer is taken."""

    model: str = setting("", "model folder or hub name; empty: the small model that ships with us")
    tokenizer: str | None = setting(None, "tokenizer folder or hub name, when not the model's")
    revision: str | None = setting(None, "hub revision: branch, tag or commit")
    download_dir: str | None = setting(None, "where hub downloads are kept")
    trust_remote_code: bool = setting(False, "run Python code that comes with the checkpoint")
    device: str = setting("auto", "platform, or platform:id[,id...], or auto")
    dtype: str = setting(
        "auto", "compute dtype", choices=("auto", "float32", "bfloat16", "float16", "float", "half")
    )
    kv_cache_dtype: str = setting("auto", "dtype of the KV cache; auto: the compute dtype")
    quantization: str | None = setting(None, "weight quantization done at load")
    load_format: str = setting(
        "auto",
        "auto (safetensors, else .bin), safetensors, pt (.bin, weights only), dummy (random)",
        choices=("auto", "safetensors", "pt", "dummy"),
    )
    max_model_len: int | None = setting(None, "longest prompt plus output, in tokens", low=2)
    block_size: int | None = setting(None, "tokens a KV cache block", low=1)
    num_blocks: int | None = setting(None, "KV cache blocks, instead of what memory allows", low=1)
    kv_cache_memory: int | None = setting(None, "bytes for the KV cache", low=1)
    gpu_memory_utilization: float = setting(0.9, "share of the device's memory to use, 0 to 1")
    max_num_batched_tokens: int | None = setting(None, "most tokens in one step", low=1)
    max_num_seqs: int | None = setting(None, "most requests running at once", low=1)
    max_queue: int = setting(1024, "most requests waiting; one more is refused (503)", low=1)
    max_logprobs: int = setting(
        20, "most alternatives a token that requests may ask for; -1: no limit", low=-1
    )
    enable_prefix_caching: bool = setting(True, "reuse cached blocks of equal prompt prefixes")
    enable_chunked_prefill: bool = setting(True, "split long prompts over several steps")
    async_scheduling: bool | None = setting(
        None, "plan the next step while one runs; default: where the platform gains by it"
    )
    scheduling_policy: str = setting(
        "fcfs",
        "who goes first: fcfs, or priority (lower runs earlier)",
        choices=("fcfs", "priority"),
    )
    tensor_parallel_size: int = setting(1, "devices that share one model", low=1)
    seed: int = setting(0, "seed of requests that bring none", low=0)
    show_progress: bool = setting(True, "progress bars while loading")
    platform_options: Mapping[str, object] = setting(EMPTY, "options of the platform itself")

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InvalidValue(
                "gpu_memory_utilization", self.gpu_memory_utilization, "must be in (0, 1]"
            )


def make_config(**settings: object) -> EngineConfig:
    """An EngineConfig from keyword arguments, ``model`` and ``tokenizer`` as paths too; an unknown
    name is refused with the nearest match."""
    known = [f.name for f in dataclasses.fields(EngineConfig)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"{near[0]!r}?" if near else f"one of {', '.join(known)}"
            raise PagodaError(f"unknown engine setting {name!r}", hint)
    paths = {name: os.fspath(v) for name, v in settings.items() if isinstance(v, os.PathLike)}
    return EngineConfig(**{**settings, **paths})
