"""Weights from disk into a model's tensors, one at a time, every name and shape accounted for.

Peak memory is the model's own weights and one tensor: a file is mapped, never read whole."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pagoda.models.weights import RawTensor, iter_weights, progress_bar, which_files
from pagoda.platform import BadCheckpoint
from pagoda_torch.models.interface import CausalLM

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}

KeyOf = Callable[[str], str | None]
"""A checkpoint's name to the model's; None: not needed, whatever is in it."""

Found = Iterator[tuple[str, str, Tensor]]
"""Name in the checkpoint, name in the model, tensor."""

NUM_RANDOM = (1 << 22) - 3
"""Normal numbers that dummy weights are made of."""


def load_weights(
    model: CausalLM,
    path: str,
    load_format: str,
    seed: int,
    show_progress: bool,
    take: Callable[[str, Tensor], bool] = lambda name, tensor: False,
    filled: Callable[[str], None] = lambda name: None,
) -> None:
    """Fill every tensor of ``model.weights()``, but those that ``take`` keeps as they lie in the
    file; ``filled`` hears each name once that is done, when no view of it is kept.

    Raises BadCheckpoint naming the tensors that are missing, unknown, of another shape or of a
    dtype that holds no plain numbers."""
    targets = dict(model.weights())
    if load_format == "dummy":
        fill_random(targets, seed)
        return
    if which_files(path, load_format).format == "safetensors":
        tensors = _safetensors(path, load_format, show_progress, model.checkpoint_name)
    else:
        tensors = _pickled(path, load_format, show_progress, model.checkpoint_name)
    known, unknown = set(targets), []
    for name, key, tensor in tensors:
        if key not in known:
            unknown.append(name)
            continue
        target = targets.pop(key, None)
        if target is None:  # the same under another name
            continue
        if tensor.shape != target.shape:
            raise BadCheckpoint(
                f"{path}: tensor {name} is {list(tensor.shape)},"
                f" the config makes it {list(target.shape)}",
                "a config.json that belongs to these weights",
            )
        if not take(key, tensor):
            target.copy_(tensor)
            del target
            filled(key)
    complaints = [
        f"{len(names)} tensors are {what}: {_some(sorted(names))}"
        for what, names in (("missing", targets), ("not part of this model", unknown))
        if names
    ]
    if complaints:
        raise BadCheckpoint(
            f"{path}: {'; '.join(complaints)}", "a complete checkpoint, with its own config.json"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _safetensors(path: str, load_format: str, progress: bool, key_of: KeyOf) -> Found:
    for raw in iter_weights(path, load_format, progress):
        key = key_of(raw.name)
        if key is not None:
            yield raw.name, key, view_of(raw)


def view_of(raw: RawTensor) -> Tensor:
    """A raw tensor as a torch view of the mapped file; not to be written to."""
    dtype = DTYPES.get(raw.dtype)
    if dtype is None:
        raise BadCheckpoint(
            f"tensor {raw.name} is stored as {raw.dtype}", f"a checkpoint in {', '.join(DTYPES)}"
        )
    if not len(raw.buffer):
        return torch.empty(raw.shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the buffer is read-only, and only read
        return torch.frombuffer(raw.buffer, dtype=dtype).view(raw.shape)


def _pickled(path: str, load_format: str, progress: bool, key_of: KeyOf) -> Found:
    files = which_files(path, load_format)
    with progress_bar(files.num_bytes, progress) as bar:
        for file in files.files:
            for name, tensor in _read_pickle(file).items():
                key = key_of(name)
                if key is None:
                    continue
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                    raise BadCheckpoint(f"{file}: {name} is {kind}, not a tensor of numbers")
                yield name, key, tensor
            bar.update(file.stat().st_size)


def _read_pickle(file: Path) -> Mapping[str, object]:
    """A ``.bin`` file's state dict, mapped where its format allows; nothing in it is run."""
    with file.open("rb") as opened:
        zipped = opened.read(2) == b"PK"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BadCheckpoint(
            f"{file}: not a plain file of tensors ({str(error).splitlines()[0]})",
            "the same checkpoint in safetensors",
        ) from error
    if not isinstance(state, Mapping):
        raise BadCheckpoint(f"{file}: holds a {type(state).__name__}, a state dict was expected")
    return state


def fill_random(targets: Mapping[str, Tensor], seed: int) -> None:
    """Weights for benchmarks: matrices normal with deviation 0.02, norms 1, biases 0; the same
    for a seed on every device.

    Matrices are cut one after the other from one table of normal numbers, again and again; its
    length is a prime, so no two rows are alike."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.empty(NUM_RANDOM).normal_(std=0.02, generator=generator)
    start = 0
    for name, target in targets.items():
        if target.dim() > 1:
            table = table.to(target.device, target.dtype)
            count = target.numel()
            rows = torch.cat([table[start:], *[table] * (count // NUM_RANDOM + 1)])[:count]
            target.copy_(rows.view(target.shape))
            start = (start + count) % NUM_RANDOM
        else:
            target.fill_(0.0 if name.endswith("bias") else 1.0)
