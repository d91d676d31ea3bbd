"""Several platforms in one environment, and two of them at work in one process."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import run

from pagoda import registry
from pagoda.config import make_config
from pagoda.engine.startup import settle
from pagoda.llm import LLM
from pagoda.sampling.params import RequestOutputKind, SamplingParams

HAVE_CPU = "cpu" in registry.installed() and importlib.util.find_spec("torch") is not None
PAIRS = [("reference", "echo"), *([("cpu", "echo"), ("cpu", "reference")] if HAVE_CPU else [])]
GREEDY = SamplingParams(
    temperature=0, max_tokens=60, ignore_eos=True, output_kind=RequestOutputKind.CUMULATIVE
)


def test_all_are_listed_by_priority(echo: Path) -> None:
    names = [finding.name for finding in registry.survey()]
    assert names.index("reference") < names.index("echo")
    assert not HAVE_CPU or names.index("cpu") < names.index("reference")


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_engines_at_once_in_one_process(
    echo: Path, stories260k: Path, pair: tuple[str, str]
) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    found: dict[str, list[list[int]]] = {}

    def stream(device: str) -> Iterator[None]:
        with LLM(
            str(stories260k / "hf"), device=device, dtype="float32", show_progress=False
        ) as llm:
            assert llm.info.platform == device
            for entry in golden[:2]:
                tokens: list[int] = []
                for output in llm.stream({"prompt_token_ids": entry["prompt_ids"]}, GREEDY):
                    tokens = list(output.outputs[0].token_ids)
                    yield
                found.setdefault(device, []).append(tokens)

    turns = [stream(device) for device in pair]
    while turns:  # a token here, a token there
        turns = [turn for turn in turns if next(turn, turn) is not turn]
    expected = [entry["output_ids"][:60] for entry in golden[:2]]
    assert found == dict.fromkeys(pair, expected)


def test_auto_says_what_it_took_and_why(
    echo: Path, stories260k: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(model=str(stories260k / "hf"))
    with caplog.at_level(logging.INFO, logger="pagoda"):
        settled = settle(config)
    best = max(
        (finding for finding in registry.survey() if finding.usable and finding.platform),
        key=lambda finding: finding.platform.info.priority if finding.platform else 0,
    )
    assert settled.choice.platform.info.name == best.name
    said = next(record for record in caplog.records if "auto:" in record.message)
    assert said.message.startswith(f"platform {best.name} (auto: {best.name} has the highest")


def test_auto_warns_of_what_it_passed_over(
    stories260k: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "pagoda_broken.py").write_text("raise ImportError('libbroken.so.1')")
    info = tmp_path / "pagoda_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pagoda-broken\nVersion: 1.0")
    (info / "entry_points.txt").write_text("[pagoda]\nbroken = pagoda_broken\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="pagoda"):
        settle(make_config(model=str(stories260k / "hf")))
    assert "passed over: broken: " in caplog.text and "libbroken.so.1" in caplog.text


SNAPSHOT = """
import json, os, sys

def state():
    seen = {"environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path)}
    if torch:
        seen["torch"] = [
            torch.get_num_threads(), torch.get_num_interop_threads(), torch.initial_seed(),
            str(torch.get_default_dtype()), str(torch.get_default_device()),
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        ]
    return seen

torch = None
if WITH_TORCH:
    import torch
before = state()

from pagoda import registry
from pagoda.config import make_config
from pagoda.engine.startup import settle

usable = [finding.name for finding in registry.survey() if finding.usable]
for name in [*usable, "auto"]:
    settle(make_config(model=sys.argv[1], device=name))
after = state()
assert before == after, (before, after)
print(json.dumps(usable))
"""


@pytest.mark.parametrize("with_torch", [False, True])
def test_probing_and_configuring_leave_no_trace(
    echo_site: Path, stories260k: Path, with_torch: bool
) -> None:
    if with_torch and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code = f"WITH_TORCH = {with_torch}\n{SNAPSHOT}"
    done = run(sys.executable, "-c", code, stories260k / "hf", site=echo_site, cwd=Path(os.sep))
    assert done.returncode == 0, done.stdout
    assert {"reference", "echo"} <= set(json.loads(done.stdout.splitlines()[-1]))
