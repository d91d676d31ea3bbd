"""Build Pagoda: hatchling, with each backend extra resolved to where its code is.

In a checkout ``pagoda-llm[cpu]`` means ``platforms/cpu`` and what it needs beside us, so
``pip install -e '.[cpu]'`` takes nothing but pip.  An sdist, and so every released wheel,
names the published distributions instead: hatchling reads them from PKG-INFO.
"""

import os
from pathlib import Path

from hatchling import build as hatchling_build
from hatchling.build import *  # noqa: F403  the other PEP 517 and PEP 660 hooks
from hatchling.metadata.plugin.interface import MetadataHookInterface

TORCH, XLA = "platforms/torch", "platforms/xla"
# Every distribution of this repository that an extra needs, the transitive ones too: a plain pin
# in a sibling's own metadata is satisfied by the direct reference made here.
EXTRAS = {
    "cpu": [TORCH, "kernels/cpu", "platforms/cpu"],
    "cuda": [TORCH, "kernels/triton", "platforms/cuda"],
    "neuron": [TORCH, XLA, "kernels/nki", "platforms/neuron"],
    "openvino": ["platforms/openvino"],
    "tpu": [TORCH, XLA, "kernels/pallas", "platforms/tpu"],
    "rocm": [TORCH, "kernels/triton", "platforms/rocm"],
    "xpu": [TORCH, "kernels/sycl", "kernels/triton", "platforms/xpu"],
}
TEST = [
    "hatchling>=1.27",
    "hypothesis>=6.100",
    "httpx>=0.27",
    "jsonschema>=4.20",
    "mypy>=1.15",
    "openai>=1.60",
    "pytest>=8.2",
    "ruff>=0.9",
]


class BackendExtras(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        metadata["optional-dependencies"] = {
            **{
                extra: [self.requirement(path, metadata["version"]) for path in paths]
                for extra, paths in EXTRAS.items()
            },
            "test": TEST,
        }

    def requirement(self, path: str, version: str) -> str:
        name = "pagoda-" + path.removeprefix("platforms/").replace("/", "-")
        source = Path(self.root, path)
        if source.is_dir() and "PAGODA_RELEASE" not in os.environ:
            return f"{name} @ {source.as_uri()}"
        return f"{name}=={version}"


def build_sdist(sdist_directory: str, config_settings: dict | None = None) -> str:
    os.environ["PAGODA_RELEASE"] = "1"
    return hatchling_build.build_sdist(sdist_directory, config_settings)
