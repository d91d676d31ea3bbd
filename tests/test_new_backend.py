"""``pagoda new-backend``: what it writes installs, is found, and says what to write next."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from installed import pagoda_command, pip_install, run

from pagoda.new_backend.write import FILES, write
from pagoda.platform import (
    BlockTable,
    InvalidValue,
    KVCacheSpec,
    KVGroup,
    ModelInfo,
    PagodaError,
    RunnerConfig,
    SamplingBatch,
    ScheduledBatch,
)


@pytest.fixture(scope="module")
def abacus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly written pagoda-abacus."""
    folder = tmp_path_factory.mktemp("new")
    done = pagoda_command("new-backend", "abacus", "--into", folder)
    assert done.returncode == 0, done.stdout
    assert f"pip install -e '{folder / 'pagoda-abacus'}[test]'" in done.stdout
    assert "pytest --pagoda-platform abacus" in done.stdout
    return folder / "pagoda-abacus"


@pytest.fixture(scope="module")
def site(abacus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, installed by pip."""
    return pip_install(abacus, tmp_path_factory.mktemp("site"))


def test_what_it_writes(abacus: Path) -> None:
    files = {str(path.relative_to(abacus)) for path in abacus.rglob("*") if path.is_file()}
    assert files == {path.replace("$module", "pagoda_abacus") for path in FILES}
    for path in map(abacus.joinpath, files):
        text = path.read_text()
        assert "$" not in text, f"{path} has a blank left"
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), f"{path} says nothing of itself"
            assert max(map(len, text.splitlines())) <= 100, path


def test_it_installs_and_is_found(site: Path) -> None:
    done = pagoda_command("platforms", site=site)
    assert done.returncode == 0 and re.search(r"^abacus +pagoda-abacus 0", done.stdout, re.M)


def test_running_it_says_what_to_write_first(site: Path, stories260k: Path) -> None:
    words = ("generate", "A", "--device", "abacus", "--model", stories260k / "hf")
    done = pagoda_command(*words, site=site)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "platform 'abacus': load() is not written yet. Try: in pagoda_abacus/r" in done.stdout


def kit(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pytest", "--pagoda-platform", "abacus", *words)
    return run(*command, site=site, cwd=cwd)


def test_the_kit_says_what_to_write_first(site: Path, tmp_path: Path) -> None:
    done = kit(site, tmp_path, "-x")
    assert done.returncode == 1
    assert "platform 'abacus': load() is not written yet. Try: in pagoda_abacus/" in done.stdout
    assert "pagoda: abacus does not conform to" in done.stdout


def test_what_is_written_passes_the_kit(site: Path, tmp_path: Path) -> None:
    done = kit(site, tmp_path, "-k", "test_identity")
    assert done.returncode == 0, done.stdout


def test_each_method_written_leads_to_the_next(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lifecycle as the core runs it, stopped by one message after the other."""
    monkeypatch.syspath_prepend(str(site))
    module = import_module("pagoda_abacus.runner")
    model = ModelInfo("nowhere", "LlamaForCausalLM", {}, "float32", 1, 1, 1, 8, 16, 32)
    batch = greedy_step()
    logits = np.eye(16, dtype=np.float32)[[7]]
    written = {
        "load": lambda self: None,
        "kv_cache_spec": lambda self: KVCacheSpec((KVGroup(16, 1024),)),
        "free_kv_bytes": lambda self: 4096,
        "init_kv_cache": lambda self, num_blocks: None,
        "_logits": lambda self, batch: logits,
    }

    def live() -> list[int]:
        runner = module.AbacusRunner(RunnerConfig("float32", max_model_len=32), model)
        runner.load()
        block_bytes = runner.kv_cache_spec().groups[0].block_bytes
        runner.init_kv_cache(runner.free_kv_bytes() // block_bytes)
        runner.warm_up()
        tokens = runner.submit(batch).result().token_ids.tolist()
        runner.close()
        return tokens

    for name, function in written.items():
        with pytest.raises(PagodaError, match=rf"{name}\(\) is not written yet. Try: in pagoda_ab"):
            live()
        monkeypatch.setattr(module.AbacusRunner, name, function)
    assert live() == [7]


def greedy_step() -> ScheduledBatch:
    """One request of three tokens, in block 0."""
    floats, ints = np.zeros(1, np.float32), np.zeros(1, np.int32)
    return ScheduledBatch(
        slots=ints,
        admitted=np.ones(1, np.bool_),
        query_start=np.array([0, 3], np.int32),
        token_ids=np.array([3, 4, 5], np.int32),
        context_lens=ints,
        block_tables=(BlockTable(np.zeros((1, 1), np.int32), ints + 1),),
        sample_rows=ints,
        sampling=SamplingBatch(floats, ints, floats + 1, floats, floats, ints - 1),
    )


def test_two_words_make_one_module(tmp_path: Path) -> None:
    folder = write("slide-rule", tmp_path)
    assert "class SlideRuleRunner" in (folder / "pagoda_slide_rule" / "runner.py").read_text()
    assert 'slide-rule = "pagoda_slide_rule.plugin"' in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, "small letters and digits") for name in ("", "Abacus", "1a", "a_b", "a-", "a/b")),
        ("auto", "best platform installed"),
        ("llm", "is kept for pagoda-llm itself"),
        ("reference", "pagoda-llm has a platform of this name installed"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, shown: str) -> None:
    with pytest.raises(InvalidValue, match=shown):
        write(name, tmp_path)
    assert not any(tmp_path.iterdir())


def test_it_never_writes_over_anything(tmp_path: Path) -> None:
    (tmp_path / "pagoda-abacus").mkdir()
    write("abacus", tmp_path)
    with pytest.raises(PagodaError, match="is there already"):
        write("abacus", tmp_path)
    (tmp_path / "pagoda-file").write_text("mine")
    with pytest.raises(PagodaError, match="is there already"):
        write("file", tmp_path)
