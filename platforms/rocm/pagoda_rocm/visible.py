"""Which of the GPUs this process may use: the variables that ROCm and HIP look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pagoda_rocm.smi import Gpu

SAYS = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """ROCR_VISIBLE_DEVICES chooses first; of what it leaves HIP_VISIBLE_DEVICES chooses, or, where
    that is not set, CUDA_VISIBLE_DEVICES."""
    found = _named(gpus, environment.get(SAYS[0]))
    return _named(found, environment.get(SAYS[1], environment.get(SAYS[2])))


def _named(gpus: Sequence[Gpu], said: str | None) -> list[Gpu]:
    """Numbers or UUIDs, in their order; nothing after the first entry that names no GPU."""
    if said is None:
        return list(gpus)
    found: list[Gpu] = []
    for word in (part.strip() for part in said.split(",")):
        if word.isdigit():
            matches = [gpus[int(word)]] if int(word) < len(gpus) else []
        else:
            matches = [gpu for gpu in gpus if word and gpu.uuid and _same(gpu.uuid, word)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found


def _same(uuid: str, word: str) -> bool:
    """HIP writes "GPU-" and sixteen digits, the management library a longer form of the same."""
    short = word.lower().removeprefix("gpu-").replace("-", "")
    return bool(short) and uuid.lower().removeprefix("gpu-").replace("-", "").startswith(short)


def said(environment: Mapping[str, str]) -> str:
    """The variables that are set, for a message; empty where none is."""
    return ", ".join(f"{name}={environment[name]!r}" for name in SAYS if name in environment)
