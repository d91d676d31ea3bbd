"""The command line on a real trained model: the golden tokens, however the work is cut up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagoda.cli.main import main

Capture = pytest.CaptureFixture[str]

LENGTH = 200
EOS = 1  # stories end on it; the golden continuations go on past it
PAGODA = [sys.executable, "-c", "import sys; from pagoda.cli.main import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def golden(stories260k: Path) -> list[dict[str, Any]]:
    """Prompts with their greedy continuations in float32."""
    records = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    assert len(records) == 6
    return list(records)


@pytest.fixture
def preemptions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each LLM of this test preempted a request."""
    from pagoda.llm import LLM

    counts: list[int] = []
    close = LLM.close

    def count_and_close(llm: LLM) -> None:
        counts.append(llm.engine.stats().num_preemptions)
        close(llm)

    monkeypatch.setattr(LLM, "close", count_and_close)
    return counts


def command(stories260k: Path, *more: str) -> list[str]:
    words = f"--device cpu --dtype float32 --temperature 0 --max-tokens {LENGTH} --json".split()
    words += ["--ignore-eos", "--cpu-threads", "1"]  # more threads only wait for each other here
    return ["generate", "--model", str(stories260k / "hf"), *words, *more]


def continuation(wanted: dict[str, Any]) -> str:
    return str(wanted["text"]).removeprefix(wanted["prompt"])


def check(out: str, golden: list[dict[str, Any]]) -> None:
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["prompt"] for record in records] == [wanted["prompt"] for wanted in golden]
    for record, wanted in zip(records, golden, strict=True):
        assert record["token_ids"] == wanted["output_ids"], wanted["prompt"]
        assert record["finish_reason"] == "length"


def test_the_golden_command_as_users_type_it(
    stories260k: Path, golden: list[dict[str, Any]]
) -> None:
    """Without --ignore-eos: a story may end early, and then says so."""
    words = [word for word in command(stories260k) if word != "--ignore-eos"]
    prompts = [wanted["prompt"] for wanted in golden]
    done = subprocess.run([*PAGODA, *words, *prompts], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    for record, wanted in zip(records, golden, strict=True):
        tokens = wanted["output_ids"]
        ended = EOS in tokens
        assert record["token_ids"] == (tokens[: tokens.index(EOS) + 1] if ended else tokens)
        assert record["finish_reason"] == ("stop" if ended else "length")


@pytest.mark.parametrize(
    ("block_size", "budget", "pool"),
    [
        (8, 16, "ample"),
        (8, 512, "tiny"),
        (16, 16, "tiny"),
        (16, 512, "ample"),
        (32, 16, "ample"),
        (32, 512, "tiny"),
        (16, 512, "alone"),
    ],
)
def test_golden_tokens_however_the_work_is_cut_up(
    stories260k: Path,
    golden: list[dict[str, Any]],
    capsys: Capture,
    preemptions: list[int],
    block_size: int,
    budget: int,
    pool: str,
) -> None:
    words = ["--block-size", str(block_size), "--max-num-batched-tokens", str(budget)]
    if pool == "tiny":  # one request at the model's full length fits, six at 200 do not
        words += ["--num-blocks", str(512 // block_size)]
    if pool == "alone":
        words += ["--max-num-seqs", "1"]
    prompts = [wanted["prompt"] for wanted in golden]
    assert main([*command(stories260k, *words), *prompts]) == 0
    check(capsys.readouterr().out, golden)
    assert (preemptions[0] > 0) == (pool == "tiny")


def test_streamed_text_equals_the_golden_text(
    stories260k: Path, golden: list[dict[str, Any]], capsys: Capture
) -> None:
    words = [word for word in command(stories260k) if word != "--json"]
    assert main([*words, golden[1]["prompt"]]) == 0
    assert capsys.readouterr().out == continuation(golden[1]) + "\n"


def test_a_second_prompt_finds_the_first_ones_prefix(stories260k: Path, capsys: Capture) -> None:
    """The same prompt twice, one after the other: full blocks of the first are not run again."""
    prompt = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    words = ["--max-num-seqs", "1", "--block-size", "8", "--max-tokens", "5"]
    assert main([*command(stories260k, *words), prompt, prompt]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["num_cached_tokens"] == 0 and second["num_cached_tokens"] >= 8
    assert first["token_ids"] == second["token_ids"]


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(
    stories260k: Path, capsys: Capture
) -> None:
    words = [*command(stories260k), "--temperature", "0.9", "--seed", "11", "--max-tokens", "20"]
    prompts = ["One day", "Tom had a dog"]
    assert main([*words, *prompts]) == 0
    together = [json.loads(line)["token_ids"] for line in capsys.readouterr().out.splitlines()]
    for prompt, tokens in zip(prompts, together, strict=True):
        assert main([*words, prompt]) == 0
        assert json.loads(capsys.readouterr().out)["token_ids"] == tokens


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--max-tokens", "-1"], "max_tokens=-1"),
        (["--structured-outputs", '{"regex": "("}'], "regex"),
        (["--prompt-token-ids", "99999"], "prompt_token_ids=99999"),
        (["--dtype", "float32", "--device", "cpu:9"], "cpu:9 does not exist"),
        (["--num-blocks", "1", "--max-model-len", "400"], "KV cache"),
    ],
)
def test_mistakes_are_one_line(
    stories260k: Path, capsys: Capture, words: list[str], shown: str
) -> None:
    assert main([*command(stories260k, *words), "hi"]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert shown in line and captured.out == "" and "Traceback" not in captured.err


def test_ctrl_c_while_streaming_exits_130(stories260k: Path) -> None:
    words = [word for word in command(stories260k) if word != "--json"]
    process = subprocess.Popen(
        [*PAGODA, *words, "--max-tokens", "480", "Once"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode in (0, 130) and "Traceback" not in errors


def test_a_batch_file_through_the_servers_routes(
    stories260k: Path, golden: list[dict[str, Any]], tmp_path: Path
) -> None:
    def line(custom_id: str, **body: Any) -> str:
        common = {"model": "tiny", "temperature": 0, "max_tokens": 30}
        return json.dumps(
            {
                "custom_id": custom_id,
                "method": "POST",
                "url": "/v1/completions",
                "body": common | body,
            }
        )

    lines = [line(str(i), prompt=wanted["prompt"]) for i, wanted in enumerate(golden) if i]
    lines[2:2] = ["{broken", line("refused", prompt="x", temperature=-1)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    words = ["run-batch", "-i", "in.jsonl", "-o", "out.jsonl", "--served-model-name", "tiny"]
    words += ["--model", str(stories260k / "hf"), "--device", "cpu", "--dtype", "float32"]
    words += ["--cpu-threads", "1"]
    subprocess.run([*PAGODA, *words], cwd=tmp_path, check=True)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(records) == len(lines)
    assert records[2]["error"]["code"] == "bad_line"
    assert records[3]["response"]["status_code"] == 400
    assert "temperature" in records[3]["error"]["message"]
    for record in records:
        if record["error"] is None:
            wanted = golden[int(record["custom_id"])]
            (choice,) = record["response"]["body"]["choices"]
            assert continuation(wanted).startswith(choice["text"])
