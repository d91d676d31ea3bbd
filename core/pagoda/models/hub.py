"""From what the user wrote to a folder on disk: a local folder as it is, else a hub download.

Reading what lies in the folder is left to ``info`` and ``weights``."""

from __future__ import annotations

import os
from pathlib import Path

from pagoda.platform.errors import BadCheckpoint, PagodaError

_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*", "vocab*", "merges*"]
_SAFETENSORS = ["*.safetensors"]
_PICKLED = ["pytorch_model*.bin", "*.index.json"]
_OTHER_COPIES = ["*/*", "consolidated*", "*.onnx", "*.gguf"]  # the same weights in other clothes


def resolve(
    model: str | os.PathLike[str],
    revision: str | None = None,
    download_dir: str | None = None,
    weights: bool = True,
) -> Path:
    """The local folder of ``model``: a path, or a hub name such as ``Qwen/Qwen3-0.6B``.

    Hub files are cached in ``download_dir`` (default: the hub's own cache) and HF_HUB_OFFLINE is
    respected.  ``weights`` False leaves weight files out.  Raises BadCheckpoint for a path that
    holds no model and PagodaError when the hub has no answer."""
    name = os.fspath(model)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _checked(path)
    if name and path.is_file():
        raise BadCheckpoint(
            f"{name} is a file, and a model is a folder with config.json and weights",
            f"the folder it lies in: {path.parent}",
        )
    if _looks_like_path(name):
        raise BadCheckpoint(
            f"{name or 'a model without a name'} does not exist",
            "a model folder or a hub name (owner/model)",
        )
    return _checked(_download(name, revision, download_dir, weights))


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise BadCheckpoint(
            f"{folder} has no config.json (it holds {found})",
            "a folder in the Hugging Face layout: config.json, *.safetensors, tokenizer.json",
        )
    return folder


def _looks_like_path(name: str) -> bool:
    """Hub names are ``model`` or ``owner/model``; all else can only have meant a path."""
    first = name[:1]
    return not name or first in "./~" or "\\" in name or name.count("/") > 1 or name.endswith("/")


def _download(name: str, revision: str | None, cache: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache,
                allow_patterns=patterns,
                ignore_patterns=_OTHER_COPIES,
            )
        )

    try:
        folder = fetch(_SMALL + _SAFETENSORS if weights else _SMALL)
        if weights and not any(folder.glob("*.safetensors")):
            folder = fetch(_PICKLED)
        return folder
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _explained(name, revision, error) from error


def _explained(name: str, revision: str | None, error: Exception) -> PagodaError:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return PagodaError(
            f"{name!r} is neither a folder here nor a valid hub name", "owner/model or a path"
        )
    if isinstance(error, errors.GatedRepoError):
        return PagodaError(
            f"the hub gives {name} only to accounts that accepted its terms",
            "accept them on the model's page, then `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return PagodaError(
            f"{name} has no revision {revision!r}", "a branch, tag or commit of that repository"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return PagodaError(
            f"no folder {name!r} here and no model of that name on the hub",
            "check the spelling; for a private model `hf auth login` or set HF_TOKEN",
        )
    reason = str(error).strip().splitlines()
    return PagodaError(
        f"cannot get {name} from the hub and it is not in the local cache"
        f" ({type(error).__name__}: {reason[0] if reason else 'no reason given'})",
        "a model folder on this machine, or a network (is HF_HUB_OFFLINE set?)",
    )
