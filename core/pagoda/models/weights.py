"""Weights as raw tensors: which files a folder offers, and safetensors read by mmap, zero copy.

Pickled ``.bin`` files are listed and never opened here: the torch family reads them."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.models.safetensors import TensorEntry, read_entries
from pagoda.models.strict_json import read_object
from pagoda.platform.errors import BadCheckpoint

LOAD_FORMATS = ("auto", "safetensors", "pt")


@dataclass(frozen=True)
class RawTensor:
    """One tensor as it lies in the file.  ``buffer`` is read-only and keeps the mapping alive."""

    name: str
    dtype: str  # safetensors' word: F32, BF16, F16, I64, U8, F8_E4M3, ...
    shape: tuple[int, ...]
    buffer: memoryview  # bytes, C order


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights."""

    format: str  # safetensors | pt
    files: tuple[Path, ...]
    index: dict[str, str] | None = None  # tensor name to file name, where an index.json says so

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def which_files(path: str | Path, load_format: str = "auto") -> WeightFiles:
    """Choose the weight files of a model folder: safetensors before ``.bin``, an index obeyed.

    Raises BadCheckpoint when there are none or a shard is missing."""
    folder = Path(path)
    if load_format not in LOAD_FORMATS:
        raise BadCheckpoint(f"load format {load_format!r} has no files", ", ".join(LOAD_FORMATS))
    if load_format in ("auto", "safetensors"):
        found = _choose(folder, "safetensors", "model.safetensors", "*.safetensors")
        if found is not None:
            return found
    if load_format in ("auto", "pt"):
        found = _choose(folder, "pt", "pytorch_model.bin", "pytorch_model*.bin")
        if found is not None:
            return found
    wanted = {"auto": "*.safetensors or pytorch_model*.bin", "pt": "pytorch_model*.bin"}
    raise BadCheckpoint(
        f"{folder} holds no weights ({wanted.get(load_format, '*.safetensors')})",
        "--load-format auto, a complete folder, or --load-format dummy for random weights",
    )


def _choose(folder: Path, form: str, single: str, pattern: str) -> WeightFiles | None:
    if (folder / single).is_file():
        return WeightFiles(form, (folder / single,))
    index = folder / f"{single}.index.json"
    if index.is_file():
        return _indexed(index, form)
    files = sorted(
        p for p in folder.glob(pattern) if not p.name.startswith(("adapter_", "consolidated"))
    )
    if not files and form == "safetensors":
        files = sorted(folder.glob("consolidated*.safetensors"))
    _check_counted(files)
    return WeightFiles(form, tuple(files)) if files else None


def _indexed(index: Path, form: str) -> WeightFiles:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{index}: no weight_map of tensor names to files")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise BadCheckpoint(f"{index}: {tensor} lies in {name!r}, which is no plain file name")
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    _check_present(files, str(index))
    return WeightFiles(form, tuple(files), weight_map)


def _check_counted(files: list[Path]) -> None:
    """Shards without an index still say in their names how many they are."""
    for file in files:
        part = re.fullmatch(r"(.*-)\d+(-of-(\d+)\..*)", file.name)
        if part:
            width = len(part[3])
            names = [f"{part[1]}{i:0{width}}{part[2]}" for i in range(1, int(part[3]) + 1)]
            _check_present([file.parent / name for name in names], file.name)


def _check_present(files: list[Path], named_by: str) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadCheckpoint(
            f"weights are incomplete: {', '.join(missing[:3])}{more} missing, named by {named_by}",
            "copy or download the folder again",
        )


def list_weights(path: str | Path, load_format: str = "auto") -> dict[str, TensorEntry]:
    """Names, dtypes and shapes of all tensors, from the headers alone (safetensors only)."""
    entries: dict[str, TensorEntry] = {}
    chosen = _safetensors(path, load_format)
    for file in chosen.files:
        for entry in _file_entries(file, chosen):
            if entry.name in entries:
                raise BadCheckpoint(f"tensor {entry.name} is in two files, {file.name} being one")
            entries[entry.name] = entry
    absent = sorted(set(chosen.index or ()) - set(entries))
    if absent:
        raise BadCheckpoint(f"{path}: the index lists {absent[0]}, which its file does not hold")
    return entries


def iter_weights(
    path: str | Path, load_format: str = "auto", show_progress: bool = False
) -> Iterator[RawTensor]:
    """Yield every tensor of a folder's safetensors, file by file in the order of their bytes.

    A buffer stays valid as long as it is referenced; pages already consumed are handed back to
    the system, so that resident memory grows by what the caller copies and no more."""
    chosen = _safetensors(path, load_format)
    list_weights(path, load_format)  # every header is sound before the first tensor is used
    bar = progress_bar(chosen.num_bytes, show_progress)
    with bar:
        for file in chosen.files:
            yield from _mapped(file, chosen, bar)


def _mapped(file: Path, chosen: WeightFiles, bar: Any) -> Iterator[RawTensor]:
    entries = _file_entries(file, chosen)
    with file.open("rb") as opened:
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapping)
    done = 0
    for entry in entries:
        yield RawTensor(entry.name, entry.dtype, entry.shape, view[entry.begin : entry.end])
        bar.update(entry.end - done)
        if hasattr(mmap, "MADV_DONTNEED"):
            start = done // mmap.PAGESIZE * mmap.PAGESIZE
            length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                mapping.madvise(mmap.MADV_DONTNEED, start, length)
        done = entry.end
    bar.update(len(view) - done)


def _safetensors(path: str | Path, load_format: str) -> WeightFiles:
    chosen = which_files(path, load_format)
    if chosen.format != "safetensors":
        raise BadCheckpoint(
            f"{chosen.files[0]} is a pickled file, and only safetensors are read here",
            "a checkpoint in safetensors, or a platform of the torch family",
        )
    return chosen


def _file_entries(file: Path, chosen: WeightFiles) -> list[TensorEntry]:
    entries = read_entries(file)
    if chosen.index is None:
        return entries
    return [entry for entry in entries if chosen.index.get(entry.name) == file.name]


def progress_bar(num_bytes: int, show: bool) -> Any:
    """A tqdm bar that counts bytes."""
    from tqdm import tqdm

    return tqdm(
        total=num_bytes,
        unit="B",
        unit_scale=True,
        desc="Loading weights",
        disable=None if show else True,  # None: only where a terminal shows it
    )
