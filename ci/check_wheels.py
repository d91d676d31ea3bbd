"""Refuse wheels and sdists that point into somebody's checkout, or at siblings of another version.

python ci/check_wheels.py dist/
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path


def read_metadata(archive: Path) -> Message:
    """The metadata of a wheel or an sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
            text = wheel.read(names[0])
    else:
        with tarfile.open(archive) as sdist:
            names = [n for n in sdist.getnames() if n.count("/") == 1 and n.endswith("/PKG-INFO")]
            file = sdist.extractfile(names[0])
            text = file.read() if file else b""
    return Parser().parsestr(text.decode())


def problems(metadata: Message) -> list[str]:
    """What makes this distribution unfit to be published."""
    found = []
    for line in metadata.get_all("Requires-Dist") or []:
        requirement = line.partition(";")[0].strip()
        if "@" in requirement:
            found.append(f"{requirement}: built from a checkout, not from an sdist")
        pin = re.fullmatch(r"pagoda-[\w-]+==(\S+)", requirement)
        if pin and pin[1] != metadata["Version"]:
            found.append(f"{requirement}: this is version {metadata['Version']}")
    return found


def main(folder: Path) -> int:
    """Check every archive of a folder; returns the exit code."""
    archives = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    if not archives:
        print(f"{folder} holds no wheel and no sdist", file=sys.stderr)
        return 1
    failed = 0
    for archive in archives:
        for problem in problems(read_metadata(archive)):
            print(f"{archive.name}: {problem}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
