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


def rounded_copy(model: ModelInfo, kind: str, folder: Path) -> ModelInfo:
    """The same model with the rounded weights written out in float32."""
    from pagoda_openvino.quantization import WHOLE, round_matrix
    from pagoda_openvino.weights import as_float32

    shutil.copytree(model.path, folder)
    tensors = {}
    for raw in iter_weights(model.path):
        tensors[raw.name] = as_float32(raw)
        if len(raw.shape) == 2:
            found = round_matrix(raw, "int8" if raw.name in WHOLE else kind)
            tensors[raw.name] = (found.numbers * found.scales).reshape(raw.shape)
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


@pytest.mark.parametrize(("kind", "largest"), [("int8", 127), ("int4", 7)])
def test_each_weight_is_the_nearest(kind: str, largest: int) -> None:
    from pagoda_openvino.quantization import round_matrix

    values = np.random.default_rng(1).normal(size=(9, 256)).astype(np.float32)
    values[4] = 0
    found = round_matrix(RawTensor("w", "F32", values.shape, memoryview(values.tobytes())), kind)
    assert np.abs(found.numbers).max() == largest
    error = np.abs(found.numbers * found.scales - values.reshape(found.numbers.shape))
    assert (error <= found.scales * 0.5001).all()
    assert not found.numbers[4].any() and found.numbers.shape[1] == (1 if kind == "int8" else 2)


def test_halves_of_a_byte() -> None:
    from pagoda_openvino.quantization import pack_pairs

    assert pack_pairs(np.array([[1, -1], [7, -7]], np.int8)).tolist() == [0xF1, 0x97]


def test_rounded_weights_lie_in_a_file(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any]
) -> None:
    """Whose pages can be handed back; without a folder for one they stay in memory, and work."""
    from pagoda_openvino.scratch import Scratch

    array = np.arange(5000, dtype=np.int8).reshape(50, 100)
    scratch = Scratch()
    found = [scratch.put(array), scratch.put(array + 1)]
    assert len(scratch.mappings) == 2
    assert np.array_equal(found[0], array) and np.array_equal(found[1], array + 1)
    assert not found[0].flags.owndata


def test_no_room_for_a_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tempfile

    from pagoda_openvino.scratch import Scratch

    def refuse(**words: Any) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    array = np.arange(6, dtype=np.int8)
    assert Scratch().put(array) is array
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
