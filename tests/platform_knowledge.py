"""A meter of what code knows about hardware: an AST walk that lists every place, by kind.

Docstrings and comments may explain; code may not ask."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = ("cuda", "rocm", "hip", "xpu", "openvino", "tpu", "neuron", "nvidia", "triton")
DEVICES = frozenset(
    {*WORDS, "cpu", "gpu", "npu", "hpu", "mps", "amd", "intel", "reference", "echo"}
)
MACHINES = frozenset({"x86_64", "amd64", "aarch64", "arm64", "ppc64le", "s390x", "riscv64"})
RUNTIMES = (
    *("torch", "triton", "jax", "jaxlib", "openvino", "libtpu", "tensorflow", "cupy", "numba"),
    *("torch_xla", "torch_xpu", "torch_npu", "torch_neuronx", "neuronxcc", "libneuronxla", "nki"),
    *("intel_extension_for_pytorch", "flashinfer", "flash_attn", "vllm", "pynvml"),
)
STRING_TESTS = ("startswith", "endswith", "removeprefix", "partition")
CAPABILITY = re.compile(
    r"(?:get_|has_|is_)?(?:device|compute)_capability(?:_\w+)?|gcn_?arch(?:_?name)?"
    r"|(?:get_)?cpu_arch(?:itecture)?|sm_?\d\d+\w*|on_(?:gfx|mi)\w*|gfx\d+\w*|get_device_properties",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """One piece of platform knowledge."""

    line: int
    kind: str  # identity | compare | import | runtime | capability | word
    text: str


def platform_knowledge(source: str) -> list[Place]:
    """Every place of a module, in the order of its lines."""
    tree = ast.parse(source)
    skipped = set(map(id, [*_docstrings(tree), *_inner_attributes(tree)]))
    found: set[Place] = set()
    for node in ast.walk(tree):
        if id(node) not in skipped:
            found.update(_places(node))
    return sorted(found, key=lambda place: (place.line, place.kind, place.text))


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    """Strings that are statements by themselves: of modules, classes, functions, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _inner_attributes(tree: ast.Module) -> Iterator[ast.expr]:
    """``a.b`` of ``a.b.c``: a chain counts once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            yield node.value


def _places(node: ast.AST) -> Iterator[Place]:
    line = getattr(node, "lineno", 0)
    for name in _identifiers(node):
        parts = _parts(name)
        if parts[:1] == ["is"] and len(parts) > 1 and parts[1] in DEVICES:
            yield Place(line, "identity", name)
        elif CAPABILITY.fullmatch(name):
            yield Place(line, "capability", name)
        elif any(map(_is_forbidden, parts)):
            yield Place(line, "word", name)
    if isinstance(node, ast.Attribute) and _root(node) in RUNTIMES:
        yield Place(line, "runtime", ast.unparse(node))
    if isinstance(node, ast.Compare):
        yield from _compared(node, [node.left, *node.comparators])
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in STRING_TESTS:
        yield from _compared(node, node.args)
    if isinstance(node, ast.MatchValue):
        yield from _compared(node, [node.value])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):  # {"a": 1}[device]
        yield from _compared(node, [key for key in node.value.keys if key is not None])
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        for word in re.findall(r"[A-Za-z]+", node.value):
            if any(map(_is_forbidden, _parts(word))):
                yield Place(line, "word", repr(node.value)[:60])
    for module in _modules(node):
        if module.partition(".")[0] in RUNTIMES or _another_distribution(module):
            yield Place(line, "import", module)


def _identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield from ast.unparse(node).split(".")[1:] if _root(node) else [node.attr]
        return
    for field in ("id", "arg", "name", "asname"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield from value.split(".")
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from node.module.split(".")
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names


def _compared(node: ast.AST, values: list[ast.expr]) -> Iterator[Place]:
    """Device and platform names that something is compared with or looked up by."""
    for value in values:
        inside = value.elts if isinstance(value, ast.Tuple | ast.List | ast.Set) else [value]
        for item in inside:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                name = item.value.lower().partition(":")[0]
                if name in DEVICES or name in MACHINES:
                    yield Place(getattr(node, "lineno", item.lineno), "compare", ast.unparse(node))


def _modules(node: ast.AST) -> Iterator[str]:
    """What a statement imports, or a call such as import_module("x")."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)
        if called in ("import_module", "__import__", "find_spec", "importorskip"):
            yield str(node.args[0].value)


def _another_distribution(module: str) -> bool:
    return module.partition(".")[0].startswith("pagoda_")


def _root(node: ast.Attribute) -> str:
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return _name(value)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _parts(identifier: str) -> list[str]:
    """``is_cudaGraph`` -> is, cuda, graph."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def _is_forbidden(part: str) -> bool:
    """A forbidden word, or one that begins with a forbidden word long enough to be no other."""
    return part in WORDS or part.startswith(tuple(word for word in WORDS if len(word) > 3))
