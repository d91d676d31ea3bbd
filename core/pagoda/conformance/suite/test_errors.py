"""What goes wrong is told: the tensor's name, the numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagoda.conformance.subject import Subject
from pagoda.conformance.tiny import TinyModel, write_safetensors
from pagoda.models.weights import iter_weights
from pagoda.platform.batch import Float32
from pagoda.platform.errors import BadCheckpoint, OutOfMemory, PagodaError
from pagoda.reference.load import as_float32

Tensors = dict[str, Float32]
NAME = "model.layers.1.mlp.up_proj.weight"


def missing(tensors: Tensors) -> str:
    del tensors[NAME]
    return NAME


def wrong_shape(tensors: Tensors) -> str:
    tensors[NAME] = tensors[NAME].T.copy()
    return NAME


def extra(tensors: Tensors) -> str:
    name = "model.layers.7.mlp.up_proj.weight"
    tensors[name] = tensors[NAME]
    return name


@pytest.mark.parametrize("damage", [missing, wrong_shape, extra])
def test_damaged_weights(
    subject: Subject, tmp_path: Path, damage: Callable[[Tensors], str]
) -> None:
    """load raises BadCheckpoint with the tensor's name."""
    model = subject.model(subject.families[0])
    folder = tmp_path / "damaged"
    shutil.copytree(model.folder, folder)
    tensors = {raw.name: as_float32(raw) for raw in iter_weights(model.folder)}
    name = damage(tensors)
    write_safetensors(folder / "model.safetensors", tensors, "float32")
    error = failure_of_load(subject, TinyModel("damaged", folder))
    assert isinstance(error, BadCheckpoint), (
        f"a checkpoint with a {damage.__name__} tensor: load raised {error!r}, not BadCheckpoint"
    )
    assert name in str(error), f"the error does not name the tensor {name}: {error}"


def test_a_file_cut_short(subject: Subject, tmp_path: Path) -> None:
    model = subject.model(subject.families[0])
    folder = tmp_path / "short"
    shutil.copytree(model.folder, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])
    error = failure_of_load(subject, TinyModel("short", folder))
    assert isinstance(error, BadCheckpoint), f"load raised {error!r}, not BadCheckpoint"
    assert "model.safetensors" in str(error), f"the error does not name the file: {error}"


def failure_of_load(subject: Subject, model: TinyModel) -> Exception | None:
    settled = subject.settle(model, subject.exact)
    runner = subject.choice.platform.hook.pagoda_create_runner(
        config=settled.runner_config, model=settled.model, devices=settled.choice.devices
    )
    try:
        runner.load()
    except Exception as error:
        return error
    finally:
        runner.close()
    return None


def test_too_large_a_cache(subject: Subject) -> None:
    """init_kv_cache raises OutOfMemory, with numbers, for what no machine holds."""
    settled = subject.settle(subject.model(subject.families[0]), subject.exact)
    runner = subject.choice.platform.hook.pagoda_create_runner(
        config=settled.runner_config, model=settled.model, devices=settled.choice.devices
    )
    try:
        runner.load()
        group = runner.kv_cache_spec().groups[0]
        runner.free_kv_bytes()
        with pytest.raises(Exception) as caught:
            runner.init_kv_cache((1 << 60) // group.block_bytes)
    finally:
        runner.close()
    error = caught.value
    assert isinstance(error, OutOfMemory), f"init_kv_cache of an exabyte raised {error!r}"
    assert any(c.isdigit() for c in str(error)), f"the error has no numbers: {error}"


def test_too_small_a_cache(subject: Subject) -> None:
    """A cache for less than one sequence is refused at start, with numbers and a remedy."""
    from pagoda.config import make_config
    from pagoda.engine.startup import open_engine

    config = make_config(
        model=str(subject.model(subject.families[0]).folder),
        device=subject.device,
        dtype=subject.exact.dtype,
        kv_cache_memory=1,
        show_progress=False,
    )
    with pytest.raises(OutOfMemory) as caught:
        open_engine(config)[0].close()
    assert caught.value.remedy and any(c.isdigit() for c in str(caught.value))


def test_a_runner_that_failed_can_be_tried_again(subject: Subject, tmp_path: Path) -> None:
    """After a failed load the next one in the same process works."""
    model = subject.model(subject.families[0])
    folder = tmp_path / "empty"
    shutil.copytree(model.folder, folder)
    (folder / "model.safetensors").unlink()
    error = failure_of_load(subject, TinyModel("empty", folder))
    assert isinstance(error, PagodaError), f"a folder without weights: load raised {error!r}"
    opened = subject.open(subject.families[0], subject.exact)
    try:
        logits = opened.oracle.logits([5, 6, 7])
        assert np.isfinite(logits).all()
    finally:
        opened.runner.close()
