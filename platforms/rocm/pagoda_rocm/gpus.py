"""The GPUs of this process: by AMD's management library, else by PyTorch, asked in a process of
its own, so that no HIP context is left in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pagoda.platform import Unavailable
from pagoda_rocm import smi, visible
from pagoda_rocm.smi import Gpu

SECONDS = 120
_QUESTION = """
import json, torch
count = torch.cuda.device_count() if torch.version.hip else 0
found = (torch.cuda.get_device_properties(i) for i in range(count))
print(json.dumps([[x.name, x.gcnArchName, x.total_memory] for x in found]))
"""


def list_gpus() -> list[Gpu]:
    """What this process may use, in HIP's order for machines whose GPUs are alike.  Raises
    Unavailable with the reason when that is nothing."""
    try:
        gpus = smi.list_gpus()
        reason = "AMD's management library sees no GPU"
    except Unavailable as error:
        gpus, reason = [], error.what
    if gpus:
        found = visible.visible(gpus, os.environ)
        if found:
            return found
        said = visible.said(os.environ)
        raise Unavailable(f"{said} names none of the {len(gpus)} GPUs", "unset it")
    found = ask_torch()  # under WSL and on some new chips the library is blind
    if found:
        return found
    said = visible.said(os.environ)
    raise Unavailable(
        f"{reason}, and PyTorch finds no GPU" + (f" ({said} is set)" if said else ""),
        "install AMD's driver, and be in the groups render and video",
    )


def ask_torch() -> list[Gpu]:
    """What torch.cuda has, the variables heeded.  Empty where it has none or does not load."""
    command = [sys.executable, "-c", _QUESTION]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        answers = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []
    return [Gpu(name, arch, memory_bytes=memory) for name, arch, memory in answers]
