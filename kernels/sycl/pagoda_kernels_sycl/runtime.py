"""Intel's SYCL run time as pip installs it, and our C interface to it, compiled at first use."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SHIM = Path(__file__).with_name("shim.cpp")
CPU_WHEELS = ("intel-sycl-rt", "intel-opencl-rt", "intel-cmplr-lib-rt", "intel-cmplr-lib-ur")
INSTALL_CPU = "pip install 'pagoda-kernels-sycl[cpu-device]'"


class SyclUnavailable(RuntimeError):
    """SYCL kernels cannot be compiled or run here; says why, and what to do."""

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}. Try: {remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Runtime:
    """Where the run time's files are."""

    version: str
    include: Path
    library: Path  # the folder


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def find_runtime() -> Runtime:
    """The wheel intel-sycl-rt of this environment.  Raises SyclUnavailable."""
    header = _file_of("intel-sycl-rt", "include/sycl/sycl.hpp")
    library = _file_of("intel-sycl-rt", "libsycl.so")
    compiler = _file_of("intel-sycl-rt", "libsycl-jit.so")
    if header is None or library is None or compiler is None:
        found = version_of("intel-sycl-rt")
        raise SyclUnavailable(
            f"intel-sycl-rt {found} lacks its headers, libsycl.so or libsycl-jit.so"
            if found
            else "intel-sycl-rt, which has the compiler of SYCL kernels, is not installed",
            f"{INSTALL_CPU}; PyTorch for XPU brings its own",
        )
    version = version_of("intel-sycl-rt") or "?"
    return Runtime(version, header.parent.parent, library.parent)


def _file_of(distribution: str, end: str) -> Path | None:
    """Where a distribution's file that ends so was put, if it is there."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(f.locate())).resolve() for f in files if f"/{f}".endswith(f"/{end}"))
    return next((path for path in found if path.is_file()), None)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pagoda" / "sycl"


def compile_shim(runtime: Runtime) -> Path:
    """The compiled interface, from the cache or by g++ (some 5 s).  Raises SyclUnavailable."""
    source = SHIM.read_bytes()
    key = hashlib.sha256(source + f"{runtime}".encode()).hexdigest()[:16]
    target = cache_folder() / f"shim-{key}.so"
    if target.is_file():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise SyclUnavailable("no C++ compiler: g++ is not on PATH", "apt install g++, or set CXX")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, "shim.so")
        options = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared"]
        places = [f"-I{runtime.include}", f"-L{runtime.library}", f"-Wl,-rpath,{runtime.library}"]
        command = [compiler, *options, str(SHIM), *places, "-lsycl", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SyclUnavailable(
                f"{compiler} failed on {SHIM.name} with intel-sycl-rt {runtime.version}:"
                f" {done.stderr.strip()[-400:]}",
                "another g++ by CXX, or intel-sycl-rt 2026",
            )
        made.rename(target)  # whole or not at all, whoever else compiles now
    return target


@functools.cache
def load_shim() -> ctypes.CDLL:
    """The interface, ready to be called.  Raises SyclUnavailable."""
    runtime = find_runtime()
    path = compile_shim(runtime)
    try:
        shim = ctypes.CDLL(str(path))
    except OSError as error:
        missing = [name for name in CPU_WHEELS if version_of(name) is None]
        why = f" ({', '.join(missing)} not installed)" if missing else ""
        raise SyclUnavailable(
            f"the SYCL run time does not load: {error}{why}", INSTALL_CPU
        ) from error
    for name in ("cpu_queue", "build", "kernel"):
        getattr(shim, f"pagoda_sycl_{name}").restype = ctypes.c_void_p
    for name in ("error", "describe"):
        getattr(shim, f"pagoda_sycl_{name}").restype = ctypes.c_char_p
    return shim


def last_error(shim: ctypes.CDLL) -> str:
    return str(shim.pagoda_sycl_error().decode(errors="replace"))
