"""What generation_config.json asks for: sampling defaults and the tokens that end a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pagoda.models.strict_json import read_object
from pagoda.platform.errors import BadCheckpoint

_DEFAULTS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def generation_defaults(path: str | Path) -> dict[str, float | int]:
    """The model's own sampling defaults, by SamplingParams' names; empty when it names none.

    ``do_sample`` is not looked at, as in vLLM: temperature says whether to sample."""
    found = _read(Path(path))
    defaults: dict[str, float | int] = {}
    for theirs, ours in _DEFAULTS.items():
        value = found.get(theirs)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadCheckpoint(f"{path}/generation_config.json: {theirs}={value!r} is no number")
        defaults[ours] = value
    return defaults


def eos_token_ids(path: str | Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end a text: generation_config.json's word before config.json's."""
    file, value = "generation_config.json", _read(Path(path)).get("eos_token_id")
    if value is None:
        file, value = "config.json", config.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise BadCheckpoint(f"{path}/{file}: eos_token_id={value!r}, token ids were expected")
    return tuple(dict.fromkeys(i for i in ids if i >= 0))


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "generation_config.json"
    return read_object(file) if file.is_file() else {}
