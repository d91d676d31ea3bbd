"""A runner's life: load, spec, cache, warm up, steps, close; more than once in a process."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from pagoda.conformance.feeder import Feeder
from pagoda.conformance.subject import Subject
from pagoda.engine.startup import Settled
from pagoda.platform.runner import ModelRunner

Rng = np.random.Generator
CACHE_BYTES = 64 << 20


def test_twice_in_one_process(subject: Subject, rng: Rng) -> None:
    """Opened, used and closed twice: the second life is as good as the first."""
    family = subject.families[0]
    for life in ("first", "second"):
        opened = subject.open(family, subject.exact)
        feeder = Feeder(opened, rng)
        feeder.run({0: opened.prompts(rng, [9])[0]})
        opened.runner.close()
        feeder.judge(f"This was the {life} runner in this process.")


def test_close_may_be_called_again(subject: Subject) -> None:
    opened = subject.open(subject.families[0], subject.exact)
    opened.runner.close()
    opened.runner.close()


def test_close_before_load(subject: Subject) -> None:
    """What a failed start does."""
    create(subject, subject.settle(subject.model(subject.families[0]), subject.exact)).close()


def test_two_at_once(subject: Subject, rng: Rng) -> None:
    """Two models in one process, a step each in turn: nothing of a runner is global."""
    families = (subject.families[0], subject.families[-1])
    opened = [subject.open(family, subject.exact) for family in families]
    feeders = [Feeder(one, rng) for one in opened]
    try:
        for length in (13, 1, 1):
            for one, feeder in zip(opened, feeders, strict=True):
                feeder.run({0: one.prompts(rng, [length])[0]})
        for feeder in feeders:
            feeder.judge("Two runners were open at once, and took turns.")
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        pytest.fail(f"Two runners were open at once, and took turns: {error!r}")
    finally:
        for one in opened:
            one.runner.close()


def test_the_cache_is_cut_as_asked(subject: Subject) -> None:
    """The user's block size and bytes are kept to."""
    declared = subject.capabilities.block_sizes
    size = declared[-1] if declared else 32
    settled = subject.settle(
        subject.model(subject.families[0]),
        subject.exact,
        block_size=size,
        kv_cache_memory=CACHE_BYTES,
    )
    runner = create(subject, settled)
    try:
        runner.load()
        groups = runner.kv_cache_spec().groups
        assert len(groups) >= 1
        for group in groups:
            assert group.block_size == size, f"block_size={size} gave {group.block_size}"
            assert group.block_bytes > 0
        free = runner.free_kv_bytes()
        assert free == CACHE_BYTES, f"kv_cache_bytes={CACHE_BYTES} gave free_kv_bytes() {free}"
    finally:
        runner.close()


def test_memory_comes_back(subject: Subject) -> None:
    """After close a new runner finds as much free memory, and the process has not grown."""
    settled = subject.settle(subject.model(subject.families[0]), subject.exact)
    free, resident, kept = [], [], []  # kept: close frees memory, whoever holds the object
    for _ in range(4):
        runner = create(subject, settled)
        runner.load()
        group = runner.kv_cache_spec().groups[0]
        free.append(runner.free_kv_bytes())
        runner.init_kv_cache(max(1, CACHE_BYTES // group.block_bytes))
        runner.warm_up()
        runner.close()
        kept.append(runner)
        gc.collect()
        resident.append(resident_bytes())
    lost = free[1] - free[-1]
    assert lost < 1.5 * CACHE_BYTES, (
        f"free_kv_bytes() of runners opened one after another: {free}: close() does not give"
        " the cache back"
    )
    grown = resident[-1] - resident[0]
    assert grown < 1.5 * CACHE_BYTES, (
        f"three runners with a cache of {CACHE_BYTES >> 20} MiB each were opened and closed, and"
        f" the process grew by {grown >> 20} MiB: close() does not give memory back"
    )


def test_random_weights(subject: Subject) -> None:
    """load_format=dummy needs no weight files, and gives finite logits."""
    opened = subject.open(subject.families[0], subject.exact, load_format="dummy")
    try:
        feeder = Feeder(opened, np.random.default_rng(subject.seed))
        logits = feeder.run({0: [5, 6, 7]}).logits
        assert logits is not None and np.isfinite(logits).all()
        assert logits.std() > 0, "all logits are equal"
    finally:
        opened.runner.close()


def create(subject: Subject, settled: Settled) -> ModelRunner:
    runner: ModelRunner = subject.choice.platform.hook.pagoda_create_runner(
        config=settled.runner_config, model=settled.model, devices=settled.choice.devices
    )
    return runner


def resident_bytes() -> int:
    """Of this process; skips where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("this system has no /proc/self/statm")
    import resource

    return pages * resource.getpagesize()
