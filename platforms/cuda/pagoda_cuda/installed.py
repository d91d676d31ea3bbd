"""The PyTorch that is installed, without importing it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from pagoda.platform import Unavailable

INSTALL = "pip install 'pagoda-llm[cuda]'"


def torch_cuda_version() -> str:
    """The CUDA version PyTorch was built for, such as "13.0".  Raises Unavailable where there is no
    PyTorch, or one built without CUDA."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("PyTorch is not installed", INSTALL)
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*= '([^']*)'", text, re.MULTILINE)
    if cuda is None:
        name = version[1] if version else "?"
        raise Unavailable(
            f"PyTorch {name} was built without CUDA",
            "a build with CUDA: https://pytorch.org/get-started/locally/",
        )
    if find_spec("triton") is None:
        raise Unavailable("Triton is not installed", INSTALL)
    return cuda[1]
