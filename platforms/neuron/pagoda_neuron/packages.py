"""AWS's packages, and the ones that only have their names.  Imports none of them.

On the common package index AWS reserved the names with empty packages whose import raises; the real
ones are on AWS's Neuron package index."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from pagoda.platform import Unavailable

PLACEHOLDERS = {
    "neuronx-cc": "1.0.post1",
    "torch-neuronx": "1.0",
    "nki": "0.0.1",
    "vllm-neuron": "0.1.0",
}
PLACEHOLDER_BYTES = 16 << 10
"""A real one has megabytes."""

INSTALL = "pip install 'pagoda-llm[neuron]'"
REMEDY = (
    "an environment of its own, and there torch-neuronx for torch 2.9 from AWS's Neuron package"
    " index (pip's --extra-index-url; AWS's Neuron setup guide has the address)"
)
TORCH = "2.9"
"""Of torch and torch-xla: AWS's torch-neuronx has no later one on XLA."""


def installed(name: str) -> str:
    """The version; empty: not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def is_placeholder(name: str) -> bool:
    """Whether what is installed under the name is one of the empty packages."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    if found.version == PLACEHOLDERS.get(name):
        return True
    sizes = [file.size for file in found.files or [] if file.size is not None]
    return bool(sizes) and sum(sizes) < PLACEHOLDER_BYTES


def placeholders() -> list[str]:
    """Those installed, with their versions."""
    return [f"{name} {installed(name)}" for name in PLACEHOLDERS if is_placeholder(name)]


def require_torch() -> None:
    """Raise Unavailable unless torch and torch-xla are those that Neuron's XLA line ended with."""
    for module, package in (("torch", "torch"), ("torch_xla", "torch-xla")):
        if find_spec(module) is None:
            raise Unavailable(f"{package} is not installed", INSTALL)
        if not (found := installed(package)).startswith(f"{TORCH}."):
            raise Unavailable(
                f"{package} {found} is installed; {TORCH} is needed, the last that torch-neuronx"
                " has on XLA",
                f"an environment of its own, and there {INSTALL}",
            )


def require_neuron() -> None:
    """Raise Unavailable unless AWS's runtime packages are there, and are AWS's."""
    if traps := placeholders():
        raise Unavailable(
            f"{', '.join(traps)}: empty placeholders that raise when imported, not AWS's packages",
            f"pip uninstall {' '.join(trap.split()[0] for trap in traps)}; then {REMEDY}",
        )
    for package, module in (("torch-neuronx", "torch_neuronx"), ("neuronx-cc", "neuronxcc")):
        if not installed(package) and find_spec(module) is None:
            raise Unavailable(f"{package} is not installed", REMEDY)


def has_nki() -> bool:
    return bool(installed("nki")) and not is_placeholder("nki")
