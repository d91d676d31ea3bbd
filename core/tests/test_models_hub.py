"""From a name to a folder, without a network: snapshot_download is stood in for."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from pagoda.models.hub import resolve
from pagoda.platform.errors import BadCheckpoint, PagodaError


def test_local_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(tmp_path) == tmp_path


def test_local_things_that_are_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadCheckpoint, match=r"no config\.json \(it holds notes\.txt\)"):
        resolve(tmp_path)
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(BadCheckpoint, match="is a file"):
        resolve(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["", "/no/such", "./model", "../x", "~/nope", "a/b/c", "model/"])
def test_paths_that_do_not_exist(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # must not be reached
    with pytest.raises(BadCheckpoint, match="does not exist"):
        resolve(name)


class Hub:
    """Serves a repository's files by pattern, as snapshot_download does."""

    def __init__(self, folder: Path, files: list[str]):
        self.folder, self.files, self.calls = folder, files, []

    def __call__(self, name, revision, cache_dir, allow_patterns, ignore_patterns):
        self.calls.append((name, revision, cache_dir))
        for file in self.files:
            allowed = any(fnmatch.fnmatch(file, p) for p in allow_patterns)
            if allowed and not any(fnmatch.fnmatch(file, p) for p in ignore_patterns):
                (self.folder / file).parent.mkdir(exist_ok=True)
                (self.folder / file).write_text("{}")
        return str(self.folder)


@pytest.mark.parametrize(
    ("files", "weights", "kept"),
    [
        (["model.safetensors", "pytorch_model.bin"], True, ["model.safetensors"]),
        (["pytorch_model.bin", "optimizer.bin"], True, ["pytorch_model.bin"]),
        (["model.safetensors", "original/w.safetensors"], True, ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], True, ["model.safetensors"]),
        (["model.safetensors"], False, []),
    ],
)
def test_download_takes_what_is_needed(tmp_path, monkeypatch, files, weights, kept):
    hub = Hub(tmp_path, ["config.json", "tokenizer.json", *files])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert resolve("owner/model", "v2", "/cache", weights=weights) == tmp_path
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["config.json", "tokenizer.json", *kept]
    )
    assert set(hub.calls) == {("owner/model", "v2", "/cache")}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (LocalEntryNotFoundError("not cached"), "not in the local cache"),
        (ConnectionError("no route"), "no route"),
        (HFValidationError("bad"), "valid hub name"),
    ],
)
def test_hub_without_an_answer(monkeypatch, error, says):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(PagodaError, match=says):
        resolve("owner/model")


def test_offline_is_respected(monkeypatch, tmp_path):
    """The real snapshot_download, told to stay offline, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PagodaError, match="local cache"):
        resolve("owner/model", download_dir=str(tmp_path))
