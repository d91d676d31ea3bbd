"""The README's Python runs as it stands, but for the model, the device and the address."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from installed import ROOT, run

CHANGES = {'"Qwen/Qwen3-0.6B"': "MODEL", 'device="cpu"': 'device="reference"'}


def python_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", ["import LLM", "import AsyncLLM"])
def test_offline(name: str, stories260k: Path) -> None:
    (code,) = (block for block in python_blocks() if name in block)
    for written, run_as in CHANGES.items():
        assert written in code
        code = code.replace(written, run_as)
    code = f"MODEL = {str(stories260k / 'hf')!r}\n{code}"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0 and done.stdout.strip(), done.stdout
