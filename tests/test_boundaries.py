"""Who may import whom, and that the core does not know what hardware it is on."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import ROOT, run
from platform_knowledge import platform_knowledge

CORE = ROOT / "core" / "pagoda"

# What a distribution of a backend may import of the core besides pagoda.platform.
PUBLIC = frozenset(
    {
        "pagoda.platform",
        "pagoda.models.info",
        "pagoda.models.rope",
        "pagoda.models.shape",
        "pagoda.models.weights",
        "pagoda.sampling.reference",
        "pagoda.workers",
        "pagoda.conformance.profile",  # for pagoda_conformance_profile, when the kit asks
        "pagoda.conformance.fixtures",  # for suites of a platform's own
    }
)
TORCH = "pagoda_torch"  # shared by the torch family, a distribution that is no platform
XLA = "pagoda_xla"  # the same for the XLA family

SETTINGS = {"config", "outputs"}
# Package of the core -> those it may import.  Everything may import pagoda.platform.
CORE_IMPORTS = {
    "platform": set(),
    "inputs": set(),
    "outputs": set(),
    "config": set(),
    "registry": set(),
    "models": set(),
    "workers": set(),
    "sampling": {"tokenizer"},
    "tokenizer": {"models", "sampling.params"},
    "scheduler": {"sampling"},
    "engine": {"scheduler", "sampling", "tokenizer", "models", "registry", "assets"} | SETTINGS,
    "llm": {"engine", "sampling", "tokenizer"} | SETTINGS,
    "async_llm": {"engine", "sampling", "tokenizer"} | SETTINGS,
    "server": {"async_llm", "engine.messages", "sampling", "tokenizer", "models", "assets"}
    | SETTINGS,
    "cli": {"llm", "async_llm", "server", "engine", "sampling", "tokenizer", "models"}
    | {"registry", "assets", "new_backend"}
    | SETTINGS,
    "new_backend": {"registry"},
    "assets": set(),
    "reference": {name.removeprefix("pagoda.") for name in PUBLIC},
    "conformance": {"reference", "llm", "engine", "sampling", "models", "registry", "assets"}
    | SETTINGS,
}
# Third-party packages that only some may import.
ONLY_IN = {
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "pydantic"), ("server", "cli")),
    **dict.fromkeys(("pytest", "_pytest", "hypothesis"), ("conformance",)),
    "prometheus_client": ("server",),
    "huggingface_hub": ("models",),
    "zmq": ("engine", "async_llm"),
}


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(module, whether at the top level) of what runs; ``if TYPE_CHECKING`` does not."""
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, top = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += [(child, top) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, top
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        todo += [(child, top and not inside) for child in ast.iter_child_nodes(node)]


def within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(allowed + ".")


def core_violations(package: str, tree: ast.AST) -> list[str]:
    """Imports of a module of the core's ``package`` that the table does not have."""
    allowed = {f"pagoda.{name}" for name in CORE_IMPORTS[package] | {package}}
    found = []
    for module, _ in imports(tree):
        top = module.partition(".")[0]
        if top == "pagoda" and module not in ("pagoda", "pagoda.__version__"):
            known = module.split(".")[1] in CORE_IMPORTS
            if known and not any(within(module, a) for a in allowed | {"pagoda.platform"}):
                found.append(module)
        elif package not in ONLY_IN.get(top, (package,)):
            found.append(module)
    return found


def backend_violations(own: str, siblings: set[str], light: bool, tree: ast.AST) -> list[str]:
    """Imports of a platform's or plugin's module that are not open to it.  ``siblings`` are our
    distributions that its pyproject names; a ``light`` module leaves them to its functions."""
    found = []
    for module, top in imports(tree):
        root = module.partition(".")[0]
        if root == "pagoda":
            core = {"pagoda.platform"} if light and top else PUBLIC
            # A package is named on the way to what is open inside it.
            if not any(within(module, name) or within(name, module) for name in core):
                found.append(module)
        elif root.startswith("pagoda_") and root != own:
            if root not in siblings or (light and top):
                found.append(module)
        elif light and top and root not in sys.stdlib_module_names and root != own:
            found.append(module)
    return found


def distributions(*families: str) -> list[Path]:
    found = (path for family in families for path in ROOT.glob(f"{family}/*/pyproject.toml"))
    return sorted(path.parent for path in found)


def named(folder: Path) -> str:
    return folder.name


def package_of(folder: Path) -> Path:
    (package,) = (path for path in folder.glob("pagoda_*") if path.is_dir())
    return package


@pytest.mark.parametrize("path", sources(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_in_the_core_point_down(path: Path) -> None:
    package = path.relative_to(CORE).parts[0].removesuffix(".py")
    if package == "__init__":
        return  # names the homes of what it exports, and imports none
    assert package in CORE_IMPORTS, "a new package of the core: give it a row in CORE_IMPORTS"
    assert not core_violations(package, ast.parse(path.read_text()))


@pytest.mark.parametrize("folder", distributions("platforms", "plugins"), ids=named)
def test_backends_import_what_is_open_to_them(folder: Path) -> None:
    package = package_of(folder)
    needs = (folder / "pyproject.toml").read_text()
    shared = (TORCH, XLA, *(package_of(d).name for d in distributions("kernels")))
    siblings = {name for name in shared if f'"{name.replace("_", "-")}' in needs}
    for path in sources(package):
        light = path.name == "plugin.py"
        found = backend_violations(package.name, siblings, light, ast.parse(path.read_text()))
        assert not found, path.relative_to(ROOT)


@pytest.mark.parametrize("folder", distributions("kernels"), ids=named)
def test_kernels_import_nothing_of_ours(folder: Path) -> None:
    for path in sources(*folder.glob("pagoda_*")):
        own = path.relative_to(folder).parts[0]
        for module, _ in imports(ast.parse(path.read_text())):
            root = module.partition(".")[0]
            assert root == own or not root.startswith("pagoda"), path.relative_to(ROOT)


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("platform", "from pagoda.scheduler import blocks", 2),
        ("platform", "def f():\n import pagoda.models.info", ["pagoda.models.info"]),
        ("scheduler", "from pagoda.engine.core import EngineCore", 2),
        ("engine", "from pagoda import llm", ["pagoda.llm"]),
        ("engine", "import pagoda.reference.plugin", ["pagoda.reference.plugin"]),
        ("llm", "import fastapi", ["fastapi"]),
        ("tokenizer", "from pagoda.sampling import batch", 2),
        ("engine", "from pagoda.scheduler.blocks import BlockPool", []),
        ("tokenizer", "import pagoda.sampling.params", []),
        ("platform", "if TYPE_CHECKING:\n from pagoda.llm import LLM", []),
        ("server", "import fastapi", []),
    ],
)
def test_the_core_rule_sees_violations(package: str, source: str, wrong: list[str] | int) -> None:
    found = core_violations(package, ast.parse(source))
    assert (len(found) if isinstance(wrong, int) else found) == wrong


@pytest.mark.parametrize(
    ("source", "light", "wrong"),
    [
        ("import pagoda_cpu.plugin", False, True),
        ("def f():\n import pagoda_cpu", False, True),
        ("from pagoda.engine.core import EngineCore", False, True),
        ("from pagoda.models import hub", False, True),
        ("from pagoda import LLM", False, True),
        ("import torch", True, True),
        ("import numpy", True, True),
        ("from pagoda_torch.runner import TorchRunner", True, True),
        ("from pagoda.models.info import read_model_info", True, True),
        ("import torch", False, False),
        ("def f():\n from pagoda_torch.runner import TorchRunner", True, False),
        ("from pagoda.models.info import read_model_info", False, False),
        ("from pagoda.platform.batch import PENDING", False, False),
        ("import os\nfrom pagoda.platform import hookimpl\nimport pagoda_abacus", True, False),
    ],
)
def test_the_backend_rule_sees_violations(source: str, light: bool, wrong: bool) -> None:
    found = backend_violations("pagoda_abacus", {TORCH}, light, ast.parse(source))
    assert bool(found) == wrong, found


def test_the_core_knows_no_platform() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{place.line}: {place.kind}: {place.text}"
        for path in sources(CORE)
        for place in platform_knowledge(path.read_text())
    ]
    assert not found, f"{len(found)} places, and 0 are allowed:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ("if current.is_cuda(): pass", ["identity"]),
        ("x = p.is_cpu() or p.is_xpu", ["identity", "identity"]),
        ("is_rocm_alike = f()", ["identity"]),
        ("if device.type == 'cpu': pass", ["compare"]),
        ("if name in ('cpu', 'GPU'): pass", ["compare"]),
        ("if 'cpu:0' != device: pass", ["compare"]),
        ("device.startswith('mps')", ["compare"]),
        ("threads = {'cpu': 4, 'gpu': 1}[name]", ["compare"]),
        ("match name:\n case 'cpu': pass", ["compare"]),
        ("if machine() == 'aarch64': pass", ["compare"]),
        ("import torch", ["import"]),
        ("def f():\n from jax import numpy", ["import"]),
        ("import_module('torch')", ["import"]),
        ("from pagoda_cpu import plugin", ["import"]),
        ("torch.backends.mkldnn.enabled", ["runtime"]),
        ("if dev.get_device_capability() >= (9, 0): pass", ["capability"]),
        ("arch = props.gcnArchName", ["capability"]),
        ("use = sm_90a", ["capability"]),
        ("device = 'cuda'", ["word"]),
        ("hint = 'pip install x[openvino]'", ["word"]),
        ("def f(use_cudagraph=False): pass", ["word"]),
        ("class TPURunner: pass", ["word"]),
        ("x = f'on {n} xpu'", ["word"]),
        # What is none:
        ('"""Runs on CUDA."""', []),
        ("x = 1  # cuda", []),
        ("chip = whip + ship", []),
        ("neutral, tube = 'hippopotamus', 'output'", []),
        ("is_open = is_greedy(batch)", []),
        ("device = 'auto'", []),
        ("report = {'cpu': name, 'memory': size}", []),
        ("if device == 'auto': pass", []),
        ("x = config['torch_dtype']", []),
        ("from pagoda.platform import hookimpl", []),
    ],
)
def test_the_meter_counts(source: str, kinds: list[str]) -> None:
    assert [place.kind for place in platform_knowledge(source)] == kinds


HEAVY = ("torch", "jax", "openvino", "transformers", "triton", "tensorflow")
LOADED = """
import importlib, json, pkgutil, sys
import pagoda, pagoda.cli, pagoda.engine, pagoda.server, pagoda.scheduler, pagoda.models

for package in (pagoda.cli, pagoda.engine, pagoda.server, pagoda.scheduler, pagoda.models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
if len(sys.argv) > 1:
    from pagoda import LLM, SamplingParams
    params = SamplingParams(max_tokens=4, logprobs=1)
    with LLM(sys.argv[1], device="reference", show_progress=False) as llm:
        assert llm.generate("Once", params, use_tqdm=False)[0].outputs[0].token_ids
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(*words: object) -> set[str]:
    done = run(sys.executable, "-c", LOADED, *words)
    assert done.returncode == 0, done.stdout
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_core_loads_no_runtime() -> None:
    assert not loaded() & set(HEAVY)


def test_running_the_reference_loads_no_runtime(stories260k: Path) -> None:
    assert not loaded(stories260k / "hf") & set(HEAVY)


@pytest.mark.parametrize(
    "folder",
    [d for d in distributions("platforms", "plugins") if (package_of(d) / "plugin.py").exists()],
    ids=named,
)
def test_a_plugin_module_is_light(folder: Path) -> None:
    name = package_of(folder).name
    code = f"import json, sys, {name}.plugin; print(json.dumps(sorted(sys.modules)))"
    done = run(sys.executable, "-c", code, site=folder)
    assert done.returncode == 0, done.stdout
    modules = {module.partition(".")[0] for module in json.loads(done.stdout.splitlines()[-1])}
    assert not modules & set(HEAVY)
