"""What the platform says of a machine, from files made up: no TPU, no torch-xla is needed."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from pathlib import Path

import pytest

from pagoda.platform import InvalidValue, ModelInfo, Unavailable
from pagoda_tpu import chips, devices, environment, plugin
from pagoda_xla.environment import settle

V5E, V6E, V3 = "0x0063", "0x006f", "0x0027"


def pci_bus(folder: Path, *found: tuple[str, str]) -> Path:
    for number, (vendor, device) in enumerate(found):
        place = folder / "pci" / f"0000:00:{number:02x}.0"
        place.mkdir(parents=True)
        (place / "vendor").write_text(f"{vendor}\n")
        (place / "device").write_text(f"{device}\n")
    return folder / "pci"


def test_chips_are_found_by_vendor_and_device(tmp_path: Path) -> None:
    bus = pci_bus(
        tmp_path, ("0x8086", V5E), (chips.GOOGLE, V5E), (chips.GOOGLE, "0x1234"), (chips.GOOGLE, V3)
    )
    found = chips.find_chips(bus)
    assert [(chip.index, chip.name) for chip in found] == [(0, "TPU v5e"), (1, "TPU v2 or v3")]
    assert found[0].generation is not None and found[1].generation is None
    assert chips.find_chips(tmp_path / "nowhere") == []


def test_holders_are_other_processes(tmp_path: Path) -> None:
    accel = tmp_path / "dev" / "accel0"
    accel.parent.mkdir()
    accel.touch()
    for pid, target in ((os.getpid(), accel), (4242, accel), (77, tmp_path)):
        folder = tmp_path / "proc" / str(pid) / "fd"
        folder.mkdir(parents=True)
        (folder / "3").symlink_to(target)
    files = chips.device_files(tmp_path / "dev")
    assert files == [accel]
    assert chips.holders(files, tmp_path / "proc") == [4242]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A machine with all packages and two v6e; tests change what they are about."""
    told: dict[str, object] = {
        "missing": (),
        "versions": {
            **dict.fromkeys(("libtpu", "jax", "jaxlib"), "0.1"),
            **{"torch": "2.9.0+cu128", "torch_xla": "2.9.0"},
        },
        "chips": [chips.Chip(i, "TPU v6e", chips.GENERATIONS[V6E]) for i in range(2)],
        "files": [Path("/dev/vfio/0")],
        "holders": [],
    }

    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        missing = name in told["missing"]  # type: ignore[operator]
        return None if missing else importlib.machinery.ModuleSpec(name, None)

    monkeypatch.setattr(devices, "find_spec", find_spec)
    monkeypatch.setattr(devices, "version", lambda name: told["versions"][name])  # type: ignore[index]
    monkeypatch.setattr(chips, "find_chips", lambda: told["chips"])
    monkeypatch.setattr(chips, "device_files", lambda: told["files"])
    monkeypatch.setattr(chips, "holders", lambda files: told["holders"])
    monkeypatch.delenv(environment.EMULATE, raising=False)
    return told


def test_usable_chips(machine: dict[str, object]) -> None:
    found = plugin.pagoda_probe()
    assert [(d.id, d.name, d.problem) for d in found] == [
        ("0", "TPU v6e", ""),
        ("1", "TPU v6e", ""),
    ]
    assert found[0].memory_bytes == 32 << 30


@pytest.mark.parametrize("package", ["torch", "torch_xla", "jax", "libtpu"])
def test_a_missing_package_is_named_with_what_to_install(
    machine: dict[str, object], package: str
) -> None:
    machine["missing"] = (package,)
    with pytest.raises(Unavailable, match=r"not installed.*pagoda-llm\[tpu\]"):
        plugin.pagoda_probe()


def test_another_torch_is_refused(machine: dict[str, object]) -> None:
    machine["versions"] = {"torch": "2.13.0+cpu", "torch_xla": "2.9.0"}
    with pytest.raises(Unavailable, match=r"2\.13\.0.*2\.9 is needed.*environment of its own"):
        plugin.pagoda_probe()


def test_no_chip_is_told_with_the_way_to_emulate(machine: dict[str, object]) -> None:
    machine["chips"] = []
    with pytest.raises(Unavailable, match=environment.EMULATE):
        plugin.pagoda_probe()


def test_a_busy_chip_names_who_holds_it(machine: dict[str, object]) -> None:
    machine["holders"] = [31, 99]
    assert all("process 31, 99" in d.problem for d in plugin.pagoda_probe())
    machine["files"] = []
    assert "/dev/accel" in plugin.pagoda_probe()[0].problem


def test_chips_older_than_v4_are_listed_and_not_usable(machine: dict[str, object]) -> None:
    machine["chips"] = [chips.Chip(0, "TPU v2 or v3", None)]
    assert "v4 is the oldest" in plugin.pagoda_probe()[0].problem


def test_emulation_is_asked_for_by_name(
    machine: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plugin.pagoda_platform().priority
    monkeypatch.setenv(environment.EMULATE, "4")
    found = plugin.pagoda_probe()
    assert len(found) == 4 and all(environment.EMULATE in d.name for d in found)
    assert plugin.pagoda_platform().priority < before, "never what auto means"
    assert "4" in plugin.pagoda_diagnose()["emulated devices"]
    for wrong in ("yes", "9", "-1"):
        monkeypatch.setenv(environment.EMULATE, wrong)
        with pytest.raises(InvalidValue, match=environment.EMULATE):
            plugin.pagoda_probe()


def test_environment_of_chips_and_of_their_emulation() -> None:
    assert environment.variables([0, 1, 2, 3], 4, 0) == {"PJRT_DEVICE": "TPU"}
    assert environment.variables([2], 4, 0) == {
        "PJRT_DEVICE": "TPU",
        "TPU_VISIBLE_CHIPS": "2",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
    with pytest.raises(InvalidValue, match="tensor_parallel_size"):
        environment.variables([0, 1, 2], 4, 0)
    emulated = environment.variables([1], 0, 2)
    assert emulated["PJRT_DEVICE"] == "CPU" and emulated["CPU_NUM_DEVICES"] == "2"
    assert emulated["TPU_SKIP_MDS_QUERY"] == "1", "libtpu would ask the cloud"


def test_a_process_has_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PJRT_DEVICE": "CPU"})
    monkeypatch.delitem(sys.modules, "torch_xla", raising=False)
    settle({"PJRT_DEVICE": "TPU"})
    assert os.environ["PJRT_DEVICE"] == "TPU"
    monkeypatch.setitem(sys.modules, "torch_xla", sys)
    settle({"PJRT_DEVICE": "TPU"})
    with pytest.raises(Unavailable, match="another process"):
        settle({"PJRT_DEVICE": "CPU"})


def test_what_is_declared_is_what_buckets_hold() -> None:
    info = ModelInfo("", "LlamaForCausalLM", {}, "bfloat16", 1, 1, 1, 64, 100, 131072)
    limits = plugin.pagoda_capabilities(info, []).limits
    assert limits.token_sizes[-1] == limits.max_tokens
    settings = plugin.pagoda_settings(info, [])
    assert settings["max_model_len"] == 8192 and settings["max_num_batched_tokens"] == 1024
