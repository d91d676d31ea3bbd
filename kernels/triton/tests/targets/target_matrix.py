"""Compile every kernel for every chip and say what each takes: ``python target_matrix.py [--full]
[--chip gfx942 ...] [--only WORD] [--markdown]``.  No GPU is needed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from fake_driver import CHIPS, Chip, pretend
from target_cases import Case, cases
from target_resources import Resources, resources

from pagoda_kernels_triton import tuning

MEASURED = {
    ("sm_90", "_prefill"): "spills some, and was the fastest of those measured on an H200",
}
"""(chip, kernel) whose spills are known and wanted."""


@dataclass(frozen=True)
class Row:
    """One binary, or why there is none."""

    chip: Chip
    case: str
    kernel: str
    found: Resources | None
    problems: list[str]
    seconds: float


def compiled(chip: str, case: Case) -> Iterator[Row]:
    """What the kernels of one case take on one chip."""
    began = time.perf_counter()
    with pretend(chip) as driver:
        shape = case.shape
        if shape is not None:
            target = tuning.Target(chip, driver.chip.num_units)
            if not tuning.fits(target, shape.size, shape.dtype.itemsize):
                return  # the platform does not run it
        try:
            case.launch()
        except Exception as error:  # the compiler's, of any kind
            last = str(error).splitlines()[-1] if str(error) else ""
            problem = f"{type(error).__name__}: {last[:120]}"
            yield Row(driver.chip, case.name, "", None, [problem], time.perf_counter() - began)
            return
        seconds = (time.perf_counter() - began) / len(driver.launches)
        for number, launch in enumerate(driver.launches):
            found = resources(launch.compiled, driver.chip)
            kernel = launch.compiled.metadata.name
            problems = found.problems(driver.chip, case.matrix and number == 0)
            if (chip, kernel) in MEASURED:
                problems = [problem for problem in problems if "spilled" not in problem]
            yield Row(driver.chip, case.name, kernel, found, problems, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every case, not the quick ones")
    parser.add_argument("--chip", action="append", choices=list(CHIPS))
    parser.add_argument("--only", default="", help="cases with this word in their names")
    parser.add_argument("--markdown", action="store_true", help="a line a chip, for the README")
    args = parser.parse_args()
    rows = []
    for chip in args.chip or CHIPS:
        for case in cases():
            if (args.full or case.quick or args.only) and args.only in case.name:
                for row in compiled(chip, case):
                    rows.append(row)
                    if not args.markdown:
                        print(line(row), flush=True)
    if args.markdown:
        print(markdown(rows))
    bad = [row for row in rows if row.problems]
    print(f"{len(rows)} binaries, {len(bad)} with problems")
    return bool(bad)


def line(row: Row) -> str:
    text = f"{row.chip.name:8} {row.case:48} {row.kernel:18} {row.seconds:5.1f} s "
    if row.found is not None:
        found = row.found
        text += f"{found.registers:4} registers {found.shared_bytes:7} shared {found.matrix}"
        text += f" {found.scalar_spills} scalar spills" if found.scalar_spills else ""
    return text + "".join(f"  <- {problem}" for problem in row.problems)


def markdown(rows: list[Row]) -> str:
    """A line a chip: how many binaries, the attention of Llama 3 in bfloat16, the largest."""
    lines = ["| chip | binaries | prompts | decodes | most shared memory | problems |"]
    lines.append("|---" * 6 + "|")
    for chip in dict.fromkeys(row.chip for row in rows):
        mine = [row for row in rows if row.chip == chip]
        found = [row.found for row in mine if row.found is not None]
        most = max(one.shared_bytes for one in found)
        cells = [chip.name, str(len(found))]
        for begin in ("prefill bfloat16 32/8x128", "decode, storing, bfloat16 32/8x128, 16"):
            one = next((r.found for r in mine if r.case.startswith(begin)), None)
            cells.append(f"{one.registers} registers, `{one.matrix}`" if one else "")
        problems = "; ".join(sorted({p for row in mine for p in row.problems})) or "none"
        cells += [f"{most >> 10} of {chip.shared_bytes >> 10} KB", problems]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
