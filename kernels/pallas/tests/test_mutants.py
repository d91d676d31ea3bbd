"""Planted faults, each of which the tests' way of running the kernel must notice: a wrong answer, a
NaN, a race, an error, or no end.  They run in a process of their own, for what has no end."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import pytest
from faults import MUTANTS
from jax._src.pallas.mosaic.interpret import reset_tpu_interpret_mode_state
from jax.experimental.pallas import tpu as pltpu
from tiled import Shape, make_step
from watched import found_races

import pagoda_kernels_pallas

SOURCES = Path(pagoda_kernels_pallas.__file__).parent
SHAPE = Shape((8, 4), 64, tile_tokens=4, num_tiles=5, window=37, soft_cap=2.0, scale=0.5)
OPTIONS = {**SHAPE.options, "blocks_per_fetch": 2, "heads_per_program": 2}
SECONDS = 25  # of work, not of waiting: the machine may be busy with something else
ENDLESS = "never ends"


def planted(folder: Path, name: str, file: str, old: str, new: str) -> Any:
    """The kernel with a change, as a package of its own."""
    (folder / name).mkdir()
    for path in SOURCES.glob("*.py"):
        source = path.read_text()
        if path.stem == file:
            assert old in source, f"no longer in the source: {old}"
            source = source.replace(old, new)
        target = folder / name / path.name
        target.write_text(source.replace("pagoda_kernels_pallas", name))
    importlib.invalidate_caches()
    return importlib.import_module(name).paged_attention


def notice(paged_attention: Any) -> str:
    """What running it as the tests do brings to light; empty for a correct kernel."""
    step = make_step(SHAPE, [9, 1], [70, 20], seed=5)
    watched = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    reset_tpu_interpret_mode_state()
    try:
        run = jax.jit(functools.partial(paged_attention, interpret=watched, **OPTIONS))
        error = step.error(jax.block_until_ready(run(*step.arguments)))
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    if found_races():
        return "a race"
    return f"error {error}" if not error < 2e-6 else ""


def serve(connection: Connection, path: list[str]) -> None:
    """Answer what is asked with what is noticed, until the other side hangs up."""
    sys.path[:] = path
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        for number in range(1000):
            try:
                change = connection.recv()
            except EOFError:
                return
            connection.send(notice(planted(Path(folder), f"planted_{number}", *change)))


class Worker:
    """A process to run planted faults in, another one after each that does not end."""

    def __init__(self) -> None:
        self.process: Any = None

    def notice(self, *change: str) -> str:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, sys.path), daemon=True)
            self.process.start()
            other.close()
        self.connection.send(change)
        begun = self.seconds()
        while not self.connection.poll(1):
            if self.seconds() - begun > SECONDS:
                self.close()
                return ENDLESS
        answer: str = self.connection.recv()
        return answer

    def seconds(self) -> float:
        """What the process has had of the processor: fields of /proc/PID/stat after its name."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self.process is not None:
            self.connection.close()
            self.process.kill()
            self.process.join()
        self.process = None


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def test_the_kernel_itself_passes(worker: Worker) -> None:
    assert not worker.notice("none", "", "")


@pytest.mark.parametrize("name", MUTANTS)
def test_noticed(name: str, worker: Worker) -> None:
    seen = worker.notice(*MUTANTS[name])
    print(name, "->", seen[:300])
    assert seen
    assert (seen == ENDLESS) == (name in ("one buffer", "the turn is not kept"))
