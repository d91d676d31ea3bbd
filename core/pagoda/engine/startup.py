"""From settings to a running engine: choose the platform, settle every open choice, load, size the
cache.  What was chosen, and by whom, is logged; nothing is decided later."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
from dataclasses import dataclass

from pagoda.config import EngineConfig
from pagoda.engine.core import EngineCore, EngineShape
from pagoda.engine.messages import EngineInfo
from pagoda.models.generation import eos_token_ids
from pagoda.models.hub import resolve
from pagoda.models.info import read_model_info
from pagoda.platform.errors import InvalidValue, OutOfMemory, UnsupportedFeature
from pagoda.platform.runner import KVGroup, ModelRunner
from pagoda.platform.types import Capabilities, Feature, ModelInfo, RunnerConfig, StepLimits
from pagoda.registry import Choice, Platform, choose
from pagoda.sampling.grammar import GrammarCompiler
from pagoda.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger("pagoda")

DTYPES = {"float": "float32", "half": "float16"}
GIB = 1 << 30


@dataclass(frozen=True)
class Settled:
    """Every choice made, before anything is loaded."""

    config: EngineConfig
    model: ModelInfo
    choice: Choice
    capabilities: Capabilities
    limits: StepLimits
    runner_config: RunnerConfig


def open_engine(config: EngineConfig) -> tuple[EngineCore, EngineInfo]:
    """Load the model that ``config`` names on the device that it names, ready for requests."""
    settled = settle(config)
    choice, model = settled.choice, settled.model
    runner: ModelRunner = choice.platform.ask(
        "pagoda_create_runner",
        config=settled.runner_config,
        model=model,
        devices=choice.devices,
    )
    try:
        runner.load()
        shape = _shape(settled, runner)
        runner.init_kv_cache(shape.num_blocks)
        runner.warm_up()
    except BaseException:
        runner.close()
        raise
    info = EngineInfo(
        model_path=model.path,
        architecture=model.architecture,
        vocab_size=model.vocab_size,
        eos_token_ids=list(eos_token_ids(model.path, model.config)),
        max_model_len=shape.max_model_len,
        dtype=settled.runner_config.dtype,
        platform=choice.platform.info.name,
        devices=[f"{d.id}: {d.name}" for d in choice.devices],
        features=sorted(f.value for f in settled.capabilities.features),
        num_blocks=shape.num_blocks,
        block_size=shape.block_size,
        max_num_seqs=shape.limits.max_requests,
        max_num_batched_tokens=shape.limits.max_tokens,
    )
    log.info("engine ready: %s", info)
    return EngineCore(runner, shape, make_grammars(config, info)), info


def make_grammars(config: EngineConfig, info: EngineInfo) -> GrammarCompiler:
    """The compiler of structured outputs; it reads the tokenizer when first used."""
    return GrammarCompiler(
        lambda: open_tokenizer(config, info), info.vocab_size, tuple(info.eos_token_ids)
    )


def open_tokenizer(config: EngineConfig, info: EngineInfo) -> Tokenizer:
    """The tokenizer that goes with an engine's model."""
    return load_tokenizer(
        config.tokenizer or info.model_path,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        download_dir=config.download_dir,
    )


def settle(config: EngineConfig) -> Settled:
    """Choose the platform and fill in what the user left open.  Raises on what cannot be had."""
    if not config.model:
        from pagoda.assets import storyteller

        config = dataclasses.replace(config, model=str(storyteller()))
    model = read_model_info(resolve(config.model, config.revision, config.download_dir))
    choice = choose(config.device, config.tensor_parallel_size)
    level = logging.WARNING if choice.passed_over else logging.INFO
    log.log(level, "platform %s (%s)", choice.platform.info.name, choice.reason)
    _check_platform_options(config, choice.platform)
    capabilities: Capabilities = choice.platform.ask(
        "pagoda_capabilities", model=model, devices=choice.devices
    )
    config = _with_platform_settings(config, choice, model)
    _check_offered(config, choice.platform.info.name, capabilities)
    max_model_len = _max_model_len(config, model)
    limits = _limits(config, capabilities.limits, max_model_len)
    runner_config = RunnerConfig(
        dtype=_dtype(config, model, capabilities, choice.platform.info.name),
        kv_cache_dtype=config.kv_cache_dtype,
        quantization=config.quantization,
        load_format=config.load_format,
        block_size=config.block_size,
        max_model_len=max_model_len,
        max_tokens=limits.max_tokens,
        max_requests=limits.max_requests,
        steps_in_flight=limits.steps_in_flight,
        tensor_parallel_size=config.tensor_parallel_size,
        memory_fraction=config.gpu_memory_utilization,
        kv_cache_bytes=config.kv_cache_memory,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
        show_progress=config.show_progress,
        platform_options=config.platform_options,
    )
    return Settled(config, model, choice, capabilities, limits, runner_config)


def _check_platform_options(config: EngineConfig, platform: Platform) -> None:
    """Refuse names that the platform's own options do not have.  What they mean is its business."""
    if not config.platform_options:
        return
    group = argparse.ArgumentParser(add_help=False).add_argument_group()
    platform.ask("pagoda_add_arguments", group=group)
    known = [action.dest for action in group._group_actions]
    for name in config.platform_options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            allowed = f"platform {platform.info.name!r} has no such option; {hint}"
            raise InvalidValue("platform_options", name, allowed)


def _with_platform_settings(config: EngineConfig, choice: Choice, model: ModelInfo) -> EngineConfig:
    """The platform's own defaults, where the user gave nothing."""
    offered = choice.platform.ask("pagoda_settings", model=model, devices=choice.devices)
    open_ones = {k: v for k, v in offered.items() if getattr(config, k) is None}
    for name, value in open_ones.items():
        log.info("%s=%r (default of platform %s)", name, value, choice.platform.info.name)
    return dataclasses.replace(config, **open_ones)


def _check_offered(config: EngineConfig, platform: str, capabilities: Capabilities) -> None:
    def refuse(what: str, have: tuple[object, ...]) -> None:
        instead = f"one of {', '.join(map(str, have))}" if have else "to leave it out"
        raise UnsupportedFeature(
            f"{what} is not offered by platform {platform!r}", f"{instead}, or another --device"
        )

    if config.quantization and config.quantization not in capabilities.quantizations:
        refuse(f"quantization={config.quantization!r}", capabilities.quantizations)
    if config.kv_cache_dtype not in capabilities.kv_dtypes:
        refuse(f"kv_cache_dtype={config.kv_cache_dtype!r}", capabilities.kv_dtypes)
    sizes = capabilities.block_sizes
    if config.block_size and sizes and config.block_size not in sizes:
        refuse(f"block_size={config.block_size}", sizes)
    if config.tensor_parallel_size > 1 and Feature.TENSOR_PARALLEL not in capabilities.features:
        refuse(f"tensor_parallel_size={config.tensor_parallel_size}", ())
    if config.async_scheduling and capabilities.limits.steps_in_flight < 2:
        refuse("async_scheduling", ())


def _dtype(
    config: EngineConfig, model: ModelInfo, capabilities: Capabilities, platform: str
) -> str:
    """``auto`` is what the platform prefers; among 16-bit dtypes, the checkpoint's own."""
    wanted = DTYPES.get(config.dtype, config.dtype)
    if wanted == "auto":
        preferred, own = capabilities.dtypes[0], model.dtype
        narrow = "float32" not in (preferred, own) and own in capabilities.dtypes
        return own if narrow else preferred
    if wanted not in capabilities.dtypes:
        have = ", ".join(capabilities.dtypes)
        raise UnsupportedFeature(f"dtype {wanted} is not offered by {platform!r}", f"one of {have}")
    return wanted


def _max_model_len(config: EngineConfig, model: ModelInfo) -> int:
    if config.max_model_len is None:
        return model.max_len
    if config.max_model_len > model.max_len:
        allowed = f"the model was made for {model.max_len} tokens"
        raise InvalidValue("max_model_len", config.max_model_len, allowed)
    return config.max_model_len


def _limits(config: EngineConfig, offered: StepLimits, max_model_len: int) -> StepLimits:
    """The platform's limits, narrowed by the user's."""
    chunked = offered.chunked_prefill and config.enable_chunked_prefill
    max_tokens = min(config.max_num_batched_tokens or 2048, offered.max_tokens)
    if not chunked and max_tokens < max_model_len:
        if offered.max_tokens < max_model_len or config.max_num_batched_tokens:
            raise InvalidValue(
                "max_num_batched_tokens",
                max_tokens,
                f"without chunked prefill it must hold max_model_len={max_model_len} tokens",
            )
        max_tokens = max_model_len
    return dataclasses.replace(
        offered,
        max_tokens=max_tokens,
        max_requests=min(config.max_num_seqs or 256, offered.max_requests),
        chunked_prefill=chunked,
        steps_in_flight=1 if config.async_scheduling is False else offered.steps_in_flight,
    )


def _shape(settled: Settled, runner: ModelRunner) -> EngineShape:
    """Cut the free memory into blocks; the longest sequence must fit alone, so that a request
    that was let in can always finish."""
    config = settled.config
    groups = runner.kv_cache_spec().groups
    if len(groups) != 1:
        platform = settled.choice.platform.info.name
        raise UnsupportedFeature(
            f"platform {platform!r} wants {len(groups)} KV groups; this core schedules one"
        )
    group = groups[0]
    longest = settled.runner_config.max_model_len
    needed = -(-longest // group.block_size)
    num_blocks = config.num_blocks
    if num_blocks is None:
        free = runner.free_kv_bytes()
        # More than every slot at full length would never be used.
        most = needed * settled.limits.max_requests
        num_blocks = min(free // group.block_bytes, most)
    if num_blocks < needed:
        longest = _shorten(config, group, num_blocks, longest)
    log.info(
        "KV cache: %d blocks of %d tokens, %.2f GiB",
        num_blocks,
        group.block_size,
        num_blocks * group.block_bytes / GIB,
    )
    return EngineShape(
        limits=settled.limits,
        num_blocks=num_blocks,
        block_size=group.block_size,
        max_model_len=longest,
        vocab_size=settled.model.vocab_size,
        prefix_caching=config.enable_prefix_caching,
        copy_blocks=Feature.BLOCK_COPY in settled.capabilities.features,
        by_priority=config.scheduling_policy == "priority",
    )


def _shorten(config: EngineConfig, group: KVGroup, num_blocks: int, longest: int) -> int:
    """The length that fits when the model's does not and the user did not insist on it."""
    fits = num_blocks * group.block_size
    wanted, have = longest * group.block_bytes // group.block_size, num_blocks * group.block_bytes
    story = (
        f"one sequence of {longest} tokens needs {wanted / GIB:.2f} GiB of KV cache, "
        f"{num_blocks} blocks ({have / GIB:.2f} GiB) hold {fits} tokens"
    )
    if config.max_model_len is not None or fits < 2:
        raise OutOfMemory(story, f"--max-model-len {fits}" if fits >= 2 else "a smaller model")
    log.warning("%s: max_model_len is now %d", story, fits)
    return fits
