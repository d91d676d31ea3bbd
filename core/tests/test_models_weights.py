"""Safetensors by mmap: the right files, the right bytes, and garbage refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pagoda.models.weights import iter_weights, list_weights, which_files
from pagoda.platform.errors import BadCheckpoint

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)


def write_raw(file: Path, header: object, data: bytes = b"\0" * 64) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_tensors_come_back_bit_for_bit(tmp_path, write_safetensors):
    write_safetensors(tmp_path / "model.safetensors", {"a": A, "b": B, "none": A[:0]})
    found = {t.name: t for t in iter_weights(tmp_path)}
    assert found["a"].shape == (2, 3) and found["a"].dtype == "F32"
    assert np.array_equal(np.frombuffer(found["a"].buffer, np.float32).reshape(2, 3), A)
    assert np.array_equal(np.frombuffer(found["b"].buffer, np.float16), B)
    assert found["none"].shape == (0, 3) and len(found["none"].buffer) == 0
    assert found["a"].buffer.readonly


def test_buffers_outlive_the_iteration(tmp_path, write_safetensors):
    rng = np.random.default_rng(0)
    arrays = {f"t{i}": rng.standard_normal(5000).astype(np.float32) for i in range(20)}
    write_safetensors(tmp_path / "model.safetensors", arrays)
    for tensor in list(iter_weights(tmp_path)):
        assert np.array_equal(np.frombuffer(tensor.buffer, np.float32), arrays[tensor.name])


def test_index_is_obeyed(tmp_path, write_safetensors):
    write_safetensors(tmp_path / "x-1.safetensors", {"a": A})
    write_safetensors(tmp_path / "x-2.safetensors", {"b": B, "unlisted": A})
    write_safetensors(tmp_path / "stray.safetensors", {"a": A * 2})
    weight_map = {"a": "x-1.safetensors", "b": "x-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert sorted(list_weights(tmp_path)) == ["a", "b"]
    assert [t.name for t in iter_weights(tmp_path)] == ["a", "b"]

    index.write_text(json.dumps({"weight_map": {**weight_map, "c": "x-2.safetensors"}}))
    with pytest.raises(BadCheckpoint, match="lists c"):
        list(iter_weights(tmp_path))
    (tmp_path / "x-2.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"x-2\.safetensors missing"):
        which_files(tmp_path)


@pytest.mark.parametrize("weight_map", [{}, [], {"a": "../x.safetensors"}, {"a": 3}, {"a": ""}])
def test_malformed_index(tmp_path, weight_map):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadCheckpoint, match=r"index\.json"):
        which_files(tmp_path)


def test_shards_without_index_must_be_complete(tmp_path, write_safetensors):
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": A})
    with pytest.raises(BadCheckpoint, match="model-00002-of-00002"):
        which_files(tmp_path)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"a": A})
    with pytest.raises(BadCheckpoint, match="in two files"):
        list_weights(tmp_path)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": B})
    assert sorted(list_weights(tmp_path)) == ["a", "b"]


def test_safetensors_go_before_pickled_files(tmp_path, write_safetensors):
    with pytest.raises(BadCheckpoint, match="holds no weights"):
        which_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert which_files(tmp_path).format == "pt"
    with pytest.raises(BadCheckpoint, match="pickled"):
        list(iter_weights(tmp_path))
    with pytest.raises(BadCheckpoint, match="holds no weights"):
        which_files(tmp_path, "safetensors")
    write_safetensors(tmp_path / "model.safetensors", {"a": A})
    assert which_files(tmp_path).format == "safetensors"
    assert which_files(tmp_path, "pt").files == (tmp_path / "pytorch_model.bin",)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(BadCheckpoint, match="git lfs pull"):
        list_weights(tmp_path)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{not json", "not valid JSON"),
        (b"[1]", "a JSON object was expected"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"w":1,"w":2}', "'w' appears twice"),
        ({"w": 3}, "tensor w: its entry is not an object"),
        ({"w": {}}, "tensor w: unknown dtype"),
        ({"w": entry(dtype=["F32"])}, "tensor w: unknown dtype"),
        ({"w": entry(dtype="Q4")}, "tensor w: unknown dtype 'Q4'"),
        ({"w": entry(shape=[-2])}, "tensor w: malformed shape"),
        ({"w": entry(shape=[2.0])}, "tensor w: malformed shape"),
        ({"w": entry(shape=None)}, "tensor w: malformed shape"),
        ({"w": entry(offsets=[8, 0])}, "tensor w: malformed data_offsets"),
        ({"w": entry(offsets=[0])}, "tensor w: malformed data_offsets"),
        ({"w": entry(offsets=[-4, 4])}, "tensor w: malformed data_offsets"),
        ({"w": entry(shape=[3])}, "tensor w: F32"),
        ({"w": entry(shape=[2**62, 2**62], offsets=[0, 8])}, "does not fill"),
        ({"w": entry(shape=[32], offsets=[0, 128])}, "tensor w: its bytes end"),
        ({"w": entry(), "v": entry(offsets=[4, 12])}, "tensors w and v overlap"),
    ],
)
def test_malformed_headers(tmp_path, header, says):
    write_raw(tmp_path / "model.safetensors", header)
    with pytest.raises(BadCheckpoint, match=says) as caught:
        list(iter_weights(tmp_path))
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\xff" * 8, b"\xff" * 200, b"\x10" + b"\0" * 9])
def test_files_that_are_no_safetensors(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        list(iter_weights(tmp_path))


def test_every_truncation_and_random_damage_is_refused_or_harmless(tmp_path, write_safetensors):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": A, "b": B})
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(BadCheckpoint):
            list(iter_weights(tmp_path))
    rng = np.random.default_rng(7)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            for tensor in iter_weights(tmp_path):
                tensor.buffer.tobytes()
        except BadCheckpoint:
            pass
