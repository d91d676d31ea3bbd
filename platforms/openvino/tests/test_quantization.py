"""8 and 4 bits: what is computed with is the rounded weights, exactly; and they are the nearest."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagoda.conformance.tiny import write_safetensors
from pagoda.models.weights import RawTensor, iter_weights
from pagoda.platform import ModelInfo

pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")

SHAPES: dict[str, dict[str, Any]] = {
    "float32": {"hidden_size": 256, "head_dim": 16},
    "bfloat16": {"hidden_size": 256, "head_dim": 16, "tie_word_embeddings": True},
    "odd groups": {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16},
}


def rounded(raw: RawTensor, kind: str) -> tuple[Any, Any]:
    """Numbers [rows, groups, columns], unpacked, and scales [rows, groups, 1]."""
    from pagoda_openvino.quantization import Rounding
    from pagoda_openvino.scratch import Room

    rounding = Rounding(raw, kind, [raw.shape[1]])
    room = Room(*rounding.num_bytes)
    (scales,) = rounding.round_into([room])
    numbers = room.array().view(np.int8)
    if kind == "int4":
        numbers = np.stack([numbers << 4 >> 4, numbers >> 4], axis=-1)
    return numbers.reshape(rounding.shape), scales


def rounded_copy(model: ModelInfo, kind: str, folder: Path) -> ModelInfo:
    """The same model with the rounded weights written out in float32."""
    from pagoda_openvino.quantization import WHOLE
    from pagoda_openvino.weights import as_float32

    shutil.copytree(model.path, folder)
    tensors = {}
    for raw in iter_weights(model.path):
        tensors[raw.name] = as_float32(raw)
        if len(raw.shape) == 2:
            numbers, scales = rounded(raw, "int8" if raw.name in WHOLE else kind)
            tensors[raw.name] = (numbers * scales).reshape(raw.shape)
    write_safetensors(folder / "model.safetensors", tensors, "float32")
    return dataclasses.replace(model, path=str(folder))


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_numbers_of_the_rounded_weights(
    make_model: Callable[..., ModelInfo],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    tmp_path: Path,
    name: str,
    kind: str,
) -> None:
    model = make_model(stored="bfloat16" if name == "bfloat16" else "float32", **SHAPES[name])
    rounded = rounded_copy(model, kind, tmp_path / "rounded")
    batch = prompts(50, 1, 9)
    found = open_runner(model, quantization=kind).submit(batch).result().logits
    expected = open_runner(rounded, "reference", block_size=32).submit(batch).result().logits
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("kind", ["int8", "int4", None])
def test_matrices_in_parts(
    make_model: Callable[..., ModelInfo],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    kind: str | None,
) -> None:
    """What is computed does not depend on how many columns are multiplied at once."""
    from pagoda_openvino import blocking

    sizes = {"hidden_size": 384, "intermediate_size": 1000 if kind is None else 640}
    model, batch = make_model(stored="bfloat16", **sizes), prompts(50, 1, 9)
    logits, counts = [], []
    for alone, parts in ((False, (640,)), (True, (256, 256, 128))):
        monkeypatch.setattr(blocking.machine, "only_avx2", lambda alone=alone: alone)
        monkeypatch.setattr(blocking, "COLUMNS", 256)
        assert blocking.widths(640) == parts
        runner = open_runner(model, quantization=kind)
        nodes = runner.compiled.get_runtime_model().get_ops()
        kinds = [str(node.get_rt_info()["layerType"].value) for node in nodes]
        counts.append(kinds.count("FullyConnected"))
        logits.append(runner.submit(batch).result().logits)
    assert counts == [11, 2 * (4 * 2 + (4 if kind is None else 3)) + 2]
    assert logits[0].std() > 0.1
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


@pytest.mark.parametrize(("kind", "largest"), [("int8", 127), ("int4", 7)])
def test_each_weight_is_the_nearest(kind: str, largest: int) -> None:
    values = np.random.default_rng(1).normal(size=(700, 256)).astype(np.float32)
    values[4] = 0
    raw = RawTensor("w", "F32", values.shape, memoryview(values.tobytes()))
    numbers, scales = rounded(raw, kind)
    assert np.abs(numbers).max() == largest
    error = np.abs(numbers * scales - values.reshape(numbers.shape))
    assert (error <= scales * 0.5001).all()
    assert not numbers[4].any() and numbers.shape[1] == (1 if kind == "int8" else 2)


def test_halves_of_a_byte() -> None:
    from pagoda_openvino.quantization import pack_pairs

    assert pack_pairs(np.array([[1, -1], [7, -7]], np.int8)).tolist() == [0xF1, 0x97]


def test_rounded_weights_lie_in_a_file() -> None:
    """Whose pages can be handed back."""
    from pagoda_openvino.scratch import Scratch

    array, scratch = np.arange(5000, dtype=np.int16), Scratch()
    rooms = [scratch.room(array.nbytes) for _ in "ab"]
    for room in rooms:
        room.write(2000, array[1000:] + 1)
        room.write(0, array[:1000])
    for room in rooms:
        found = room.array().view(np.int16)
        assert room.mapping is not None and not found.flags.owndata
        assert np.array_equal(found[:1000], array[:1000])
        assert np.array_equal(found[1000:], array[1000:] + 1)


@pytest.mark.parametrize("refusing", ["tempfile.TemporaryFile", "os.posix_fallocate"])
def test_no_room_for_a_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusing: str
) -> None:
    """They stay in plain memory, and work."""
    from pagoda_openvino.scratch import Scratch

    def refuse(*words: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(refusing, refuse)
    room = Scratch().room(6)
    room.write(0, np.arange(6, dtype=np.int8))
    assert room.mapping is None and room.array().tolist() == list(range(6))
    assert "TMPDIR" in caplog.text


def test_rounded_activations(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any]
) -> None:
    from pagoda.platform import InvalidValue, UnsupportedFeature

    def options(value: object) -> dict[str, Any]:
        return {"platform_options": {"openvino_dynamic_quantization": value}}

    model = make_model()
    for word, told in {"row": (1 << 64) - 1, "32": 32, "off": 0}.items():
        runner = open_runner(model, quantization="int8", **options(word))
        assert int(runner.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == told
    with pytest.raises(UnsupportedFeature, match="not rounded"):
        open_runner(model, **options("row"))
    with pytest.raises(InvalidValue, match="one of off, row"):
        open_runner(model, quantization="int8", **options("column"))
