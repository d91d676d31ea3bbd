"""From a model folder or hub name to a Tokenizer: tokenizer.json by the `tokenizers` library alone,
other formats converted by transformers where that is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from pagoda.models.hub import resolve
from pagoda.models.strict_json import read_object
from pagoda.platform.errors import BadCheckpoint, PagodaError
from pagoda.tokenizer.spelling import is_special
from pagoda.tokenizer.tokenizer import NoTokenizer, Tokenizer

log = logging.getLogger("pagoda")

OTHER_FORMATS = (
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "spiece.model",
)


def load_tokenizer(
    path_or_name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    download_dir: str | None = None,
) -> Tokenizer:
    """The tokenizer of a folder or hub model; a NoTokenizer, with a warning, where the folder has
    none.  Raises BadCheckpoint for a broken one and PagodaError when one needs transformers."""
    folder = Path(path_or_name).expanduser()
    if not folder.is_dir():
        folder = resolve(path_or_name, revision, download_dir, weights=False)
    settings = _settings(folder)
    if (folder / "tokenizer.json").is_file():
        backend = _read(folder / "tokenizer.json")
        _complete(backend, settings)
    elif any((folder / name).is_file() for name in OTHER_FORMATS):
        backend = _convert(folder, trust_remote_code, settings)
    else:
        log.warning("%s has no tokenizer: prompts must be token ids (see --tokenizer)", folder)
        return NoTokenizer(str(folder))
    backend.no_padding()
    backend.no_truncation()
    special = _special_tokens(settings)
    if "eos_token" in special:
        eos_id = backend.token_to_id(special["eos_token"])
        eos = [] if eos_id is None else [eos_id]
    else:
        eos = _model_eos(folder)
        if eos and (token := backend.id_to_token(eos[0])):
            special["eos_token"] = token
    return Tokenizer(backend, special, _chat_templates(folder, settings), eos)


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = read_object(folder / name)
            settings |= {key: value for key, value in found.items() if value is not None}
    return settings


def _read(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise BadCheckpoint(f"{file} is no tokenizer: {error}") from error


def _complete(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Add what tokenizer_config.json knows and tokenizer.json does not, as transformers does:
    missing added tokens, the special ones among them, and bos or eos around a text."""
    decoder = settings.get("added_tokens_decoder") or {}
    known = set()
    if decoder:  # there may be very many
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token_id in sorted(decoder, key=int):
        token = _added_token(decoder[token_id], special=False)
        if token.content not in known:
            backend.add_tokens([token])
    named = [value for name, value in settings.items() if _is_role(name, value)]
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    named += list(more.values() if isinstance(more, Mapping) else more)
    missing = [_added_token(token, special=True) for token in named]
    missing = [token for token in missing if not _has_special(backend, token.content)]
    if missing:  # adding none would index all anew
        backend.add_special_tokens(missing)
    if "add_bos_token" in settings or "add_eos_token" in settings:
        special = _special_tokens(settings)
        bos = special.get("bos_token") if settings.get("add_bos_token") else None
        eos = special.get("eos_token") if settings.get("add_eos_token") else None
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos + ':0 ' if bos else ''}$A:0{' ' + eos + ':0' if eos else ''}",
            pair="$A:0 $B:1",
            special_tokens=[(t, backend.token_to_id(t)) for t in (bos, eos) if t],
        )


def _has_special(backend: tokenizers.Tokenizer, content: str) -> bool:
    token_id = backend.token_to_id(content)
    return token_id is not None and is_special(backend, token_id)


def _added_token(value: Any, special: bool) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise BadCheckpoint(f"tokenizer_config.json: {value!r} is no token")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    given = {flag: bool(value[flag]) for flag in flags if flag in value}
    return AddedToken(value["content"], **{"normalized": False, "special": special, **given})


def _is_role(name: str, value: Any) -> bool:
    """bos_token, eos_token, image_token, ..."""
    return name.endswith("_token") and bool(value) and isinstance(value, str | Mapping)


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """By role, in the tokenizer's own words."""
    found = {name: value for name, value in settings.items() if _is_role(name, value)}
    more = settings.get("extra_special_tokens")
    if isinstance(more, Mapping):
        found |= more
    return {role: _added_token(token, True).content for role, token in found.items()}


def _model_eos(folder: Path) -> list[int]:
    """End of sequence in the model's words, for a tokenizer that has none."""
    if not (folder / "config.json").is_file():
        return []
    value = read_object(folder / "config.json").get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return [token_id for token_id in ids if isinstance(token_id, int)]


def _chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """By name: chat_template.jinja and chat_templates/ before tokenizer_config.json's before
    chat_template.json's."""
    templates: dict[str, str] = {}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read_text(folder / "chat_template.jinja")
    for file in sorted((folder / "chat_templates").glob("*.jinja")):
        templates[file.stem] = _read_text(file)
    if templates:
        return templates
    value = settings.get("chat_template")
    if value is None and (folder / "chat_template.json").is_file():
        value = read_object(folder / "chat_template.json").get("chat_template")
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        value = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return {str(name): text for name, text in value.items()}
    if value is not None:
        raise BadCheckpoint(f"{folder}: chat_template must be text, or a list of named texts")
    return {}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{file} cannot be read: {error}") from error


def _convert(
    folder: Path, trust_remote_code: bool, settings: dict[str, Any]
) -> tokenizers.Tokenizer:
    """Another format, through transformers; special tokens it knows of are added to settings."""
    have = ", ".join(name for name in OTHER_FORMATS if (folder / name).is_file())
    what = f"{folder} has no tokenizer.json, only {have}"
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        remedy = "pip install transformers sentencepiece protobuf"
        raise PagodaError(f"{what}, which transformers has to convert", remedy) from error
    try:
        converted = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )
        backend = getattr(converted, "backend_tokenizer", None)
    except Exception as error:  # whatever a converter raises; the reason is passed on
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PagodaError(
            f"{what}, and transformers cannot convert it: {reason}",
            "pip install sentencepiece protobuf tiktoken",
        ) from error
    if not isinstance(backend, tokenizers.Tokenizer):
        raise PagodaError(f"{what}, and {type(converted).__name__} cannot be converted")
    for role, token in converted.special_tokens_map.items():
        if isinstance(token, str):
            settings.setdefault(role, token)
    return backend
