"""What the device says of itself; nothing is interpreted here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pagoda import registry
from pagoda.platform import Unavailable
from pagoda_triton_interpret import interpreter, plugin


def test_every_architecture_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: name)
    assert [device.id for device in plugin.pagoda_probe()] == list(plugin.ARCHITECTURES)
    assert plugin.pagoda_platform().priority < 0  # --device auto never takes it


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(Unavailable, match=f"{missing} is not installed"):
        plugin.pagoda_probe()


def test_a_process_that_compiles_cannot_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", sys)
    with pytest.raises(Unavailable, match="TRITON_INTERPRET=1"):
        interpreter.turn_on()


def test_it_is_found_by_name() -> None:
    assert registry.find("triton-interpret").info.name == "triton-interpret"


def test_asking_sets_nothing() -> None:
    code = (
        "import os, sys, pagoda_triton_interpret.plugin as p; p.pagoda_probe();"
        "assert 'TRITON_INTERPRET' not in os.environ and 'triton' not in sys.modules"
    )
    environment = {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0 or b"Unavailable" in done.stderr, done.stderr.decode()
