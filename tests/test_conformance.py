"""The conformance kit as a tool: what it runs, what it prints and writes, what it lets pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pagoda.conformance.plugin import SUITE
from pagoda.conformance.profile import Profile
from pagoda.conformance.tiny import FAMILIES, write_model
from pagoda.models.weights import iter_weights
from pagoda.platform import PagodaError
from pagoda.reference.load import as_float32
from pagoda.reference.runner import ReferenceRunner

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the mutants are a package beside this file

from conformance_mutants.attention import WrongScale  # noqa: E402
from conformance_mutants.catalog import CATALOG, Mutant, install  # noqa: E402
from conformance_mutants.modest import MODEST  # noqa: E402
from conformance_mutants.running import run_kit  # noqa: E402

RIGHT = "not imports_nothing_heavy"  # the plugin modules here import this package and pytest
PROMPT = "test_steps.py::test_a_prompt"


def test_without_the_option_nothing_runs(tmp_path: Path) -> None:
    failures, output = run_kit(tmp_path, str(SUITE))
    assert "no tests ran" in output and not failures.messages


def test_every_pytest_pays_little() -> None:
    """The plugin is loaded by every pytest of the environment."""
    program = (
        "import sys, pagoda.conformance.plugin;"
        "print([m for m in ('numpy', 'pagoda.engine', 'pagoda.registry') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_reference_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named alone, from any folder, the kit runs all of its own suite; and writes its table."""
    monkeypatch.chdir(tmp_path)
    reports = ["--pagoda-report", "found.json", "--pagoda-report", "found.md"]
    failures, output = run_kit(tmp_path, "--pagoda-platform", "reference", *reports)
    assert not failures.messages, "\n".join(failures.messages)
    assert "pagoda: reference conforms to 1.0 (features: block_copy, " in output
    found = json.loads((tmp_path / "found.json").read_text())
    files = {path.name for path in SUITE.glob("test_*.py")}
    assert set(found["suites"]) == files
    assert found["conforms"] and found["whole"] and found["level"] == "quick"
    assert set(found["verified"].values()) == {"verified"}
    assert 0 < found["errors"]["float32"]["largest"] < found["errors"]["float32"]["allowed"]
    assert f"seed {found['seed']}" in output
    assert "test_parallel.py::test_two_devices" in found["skipped"]
    assert "conforms to 1.0" in (tmp_path / "found.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pagoda-platform", "referense"], "did you mean 'reference'?"),
        (["--pagoda-platform", "reference", "--pagoda-device", "7"], "reference:7 does not exist"),
        (["--pagoda-platform", "reference", "--pagoda-report", "x.txt"], "end in .json or .md"),
    ],
)
def test_mistakes_of_usage(tmp_path: Path, arguments: list[str], says: str) -> None:
    _, output = run_kit(tmp_path, *arguments)
    assert says in output


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def with_profile(
    site: Path, name: str, runner: type[ReferenceRunner], profile: Profile, *arguments: str
) -> tuple[list[str], str]:
    """A platform with this runner and profile, under the kit: failures and output."""
    hooks = {"pagoda_conformance_profile": lambda: profile}
    CATALOG[name] = Mutant(name, runner, "", "", hooks=hooks)
    try:
        install(CATALOG[name], site)
        failures, output = run_kit(site, "--pagoda-platform", name, *arguments)
    finally:
        del CATALOG[name]
    return failures.messages, output


def test_known_failures_are_let_pass(site: Path) -> None:
    profile = Profile(known_failures={PROMPT: "the scale is wrong"})
    failures, output = with_profile(site, "excused", WrongScale, profile, f"{SUITE}/{PROMPT}")
    assert not failures
    assert f"{PROMPT}[llama-float32]: the scale is wrong" in output
    assert "pagoda: excused does not conform to 1.0: nothing passed" in output


def test_a_known_failure_that_passes_is_a_failure(site: Path) -> None:
    profile = Profile(known_failures={f"{PROMPT}[llama-float32]": "was wrong once"})
    failures, output = with_profile(site, "mended", ReferenceRunner, profile, f"{SUITE}/{PROMPT}")
    assert len(failures) == 1 and "was wrong once" in failures[0]
    assert "does not conform" in output


def test_a_run_that_stops_early_is_a_partial_one(site: Path) -> None:
    failures, output = with_profile(site, "hasty", WrongScale, Profile(), "-x")
    assert len(failures) == 1
    assert "does not conform to 1.0: 1 failed, as far as this partial run goes" in output


def test_a_platform_brings_suites_of_its_own(site: Path) -> None:
    suite = site / "test_own.py"
    suite.write_text("def test_own(opened):\n    assert opened.runner.shape.vocab_size == 1\n")
    failures, output = with_profile(
        site, "own", ReferenceRunner, Profile(suites=(suite,)), "-k", "test_own"
    )
    assert len(failures) == 1 and "488 == 1" in failures[0]
    assert "own does not conform to 1.0: 1 failed, as far as this partial run goes" in output


def test_only_the_claimed_models_are_run(site: Path) -> None:
    _, output = with_profile(
        site, "narrow", ReferenceRunner, Profile(models=("qwen3",)), f"{SUITE}/{PROMPT}", "-vv"
    )
    assert "qwen3-float32" in output and "llama-float32" not in output


def test_a_dtype_without_tolerance_is_an_error() -> None:
    assert Profile(tolerances={"float4": 9}).tolerance("float32", "float4") == 9
    with pytest.raises(PagodaError, match=r"no tolerance for 'float4'.*Profile\(tolerances="):
        Profile().tolerance("float32", "float4")


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_are_exact_and_repeatable(tmp_path: Path, family: str) -> None:
    """Storing them in 16 bits loses nothing, and a seed says everything."""
    tensors = []
    for name in ("one", "two"):
        model = write_model(family, tmp_path / name, np.random.default_rng(7))
        tensors.append({raw.name: as_float32(raw) for raw in iter_weights(model.folder)})
    for name, tensor in tensors[0].items():
        assert np.array_equal(tensor, tensors[1][name])
        assert np.array_equal(tensor, tensor.astype(np.float16).astype(np.float32))
        assert not (tensor.view(np.uint32) & 0xFFFF).any(), f"{name} is not exact in bfloat16"


@pytest.mark.parametrize("name", MODEST)
def test_modest_platforms_conform(site: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right platforms that offer little: the kit must find nothing wrong with them."""
    monkeypatch.setenv("PYTHONPATH", f"{site}:{HERE}")
    install(MODEST[name], site)
    failures, output = run_kit(site, "--pagoda-platform", name, str(SUITE), "-k", RIGHT)
    assert not failures.messages, "\n\n".join(failures.messages)
    assert failures.num_passed > 40
    assert f"pagoda: {name} conforms to 1.0" in output
