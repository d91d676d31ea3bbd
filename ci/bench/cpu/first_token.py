"""The first token of a fresh process: `pagoda generate`, and what the machine's memory alone costs.

    python ci/bench/cpu/first_token.py --model DIR [--dtype bfloat16] [--quantization int8]
        [--rounds 3]

A line a round: seconds until the first byte of text, the whole process's CPU seconds and page
faults.  Then a process that does nothing but touch 1 GiB of fresh memory, which is what the weights
in 16 bits take, in large pages: on a virtual machine that is a good part of the start."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

TOUCH = """
import mmap, threading
page = bytes(1 << 21)
def touch():
    memory = mmap.mmap(-1, 512 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for _ in range(256): memory.write(page)
threads = [threading.Thread(target=touch) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run(command: list[str]) -> tuple[float, resource.struct_rusage]:
    """Seconds until the first byte of output, or the end; and what the process used."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    child.stdout.read(1)
    first = time.perf_counter() - started
    child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return first, used


def said(what: str, seconds: float, used: resource.struct_rusage) -> None:
    cpu = f"{used.ru_utime:.1f} + {used.ru_stime:.1f} s user + system"
    faults = f"{used.ru_minflt} + {used.ru_majflt} faults"
    print(f"{what}: {seconds:.2f} s; {cpu}, {faults}, {used.ru_maxrss >> 10} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", default="")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    command = [str(Path(sys.executable).with_name("pagoda")), "generate", "Once"]
    command += ["--model", args.model, "--max-tokens", "1", "--device", "cpu"]
    command += ["--dtype", args.dtype]
    if args.quantization:
        command += ["--quantization", args.quantization]
    name = f"{args.dtype} {args.quantization}".strip()
    for _ in range(args.rounds):
        seconds, used = run(command)
        said(f"{name}, first token", seconds, used)
        time.sleep(5)  # a virtual machine may hand freed memory back to its host
        said("  1 GiB of fresh memory", *run([sys.executable, "-c", TOUCH]))


if __name__ == "__main__":
    main()
