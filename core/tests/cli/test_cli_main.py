"""The front door: which command runs, what failures look like, what gets imported."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from pagoda import __version__
from pagoda.cli import main as front
from pagoda.cli.main import COMMANDS, main
from pagoda.platform.errors import PagodaError

Capture = pytest.CaptureFixture[str]


def raise_from_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def dispatch(*arguments: Any) -> int:
        raise error

    monkeypatch.setattr(front, "dispatch", dispatch)


def test_help_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_no_command_is_a_usage_error(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert not captured.out and "usage: pagoda" in captured.err


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pagoda {__version__}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["generat"], "unknown command 'generat'; did you mean 'generate'?"),
        (["run_batch"], "did you mean 'run-batch'?"),
        (["bench", "latncy"], "did you mean 'latency'?"),
        (["--verison"], "unknown option '--verison'"),
        (["generate", "--max_tokes", "3"], "'--max-tokes'; did you mean '--max-tokens'?"),
        (["generate", "--dtype", "float31"], "invalid choice: 'float31'"),
        (["generate", "--block-size", "many"], "invalid int value: 'many'"),
        (["platforms", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_misspelling(capsys: Capture, words: list[str], hint: str) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and hint in captured.err and not captured.out


@pytest.mark.parametrize("name", [*COMMANDS, "bench latency", "bench throughput", "bench serve"])
def test_every_command_has_help(capsys: Capture, name: str) -> None:
    assert main([*name.split(), "--help"]) == 0
    assert f"usage: pagoda {name}" in capsys.readouterr().out


def test_a_pagoda_error_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_command(monkeypatch, PagodaError("it is broken", "mend it"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "error: it is broken. Try: mend it\n"


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_command(monkeypatch, PagodaError("it is broken"))
    with pytest.raises(PagodaError):
        main(["doctor", "--debug"])
    monkeypatch.setenv("PAGODA_DEBUG", "1")
    with pytest.raises(PagodaError):
        main(["doctor"])


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_ctrl_c_is_quiet(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_command(monkeypatch, KeyboardInterrupt())
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_is_quiet() -> None:
    code = "import sys; from pagoda.cli.main import main; sys.exit(main(['platforms']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line() -> None:
    code = "import sys; from pagoda.cli.main import main; sys.exit(main(['--version']))"
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_closed_streams_are_no_cause_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["doctor", "--help"]) == 0
    assert main(["generate", "--file", "/nowhere"]) == 1
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pagoda.cli.main import main; main(['--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "pluggy", "msgspec", "pydantic", "fastapi", "pagoda.platform"}
    assert heavy & set(done.stderr.split()) == set()


def test_engine_options_import_neither_server_nor_torch() -> None:
    code = (
        "import sys; from pagoda.cli.main import main; main(['generate', '--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "tokenizers", "pydantic", "fastapi", "zmq", "pagoda.llm"}
    assert heavy & set(done.stderr.split()) == set()
