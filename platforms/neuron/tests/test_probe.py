"""What the probe says of chips, drivers and packages, the ones with AWS's names only among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pagoda.platform import Feature, InvalidValue, Unavailable
from pagoda_neuron import environment, packages, plugin

if TYPE_CHECKING:
    from conftest import Host


@pytest.mark.parametrize(
    ("instance", "num_chips", "num_cores", "gib", "nki"),
    [
        ("Inf2", 1, 2, 16, "no"),
        ("Trn1", 16, 32, 16, "no"),
        ("Trn2", 2, 8, 24, "yes"),
        ("trn3.48xlarge", 1, 4, 36, "yes"),
    ],
)
def test_cores_are_numbered(
    host: Host, instance: str, num_chips: int, num_cores: int, gib: int, nki: str
) -> None:
    host.add_chips(num_chips, instance)
    host.add_packages()
    found = plugin.pagoda_probe()
    assert [device.id for device in found] == [str(i) for i in range(num_cores)]
    assert {device.problem for device in found} == {""}
    assert {device.memory_bytes for device in found} == {gib << 30}
    assert {device.details["nki"] for device in found} == {nki}


def test_where_the_driver_says_the_type_has_moved(host: Host) -> None:
    host.add_chips(1, "Trn2", moved=True)
    host.add_packages()
    assert len(plugin.pagoda_probe()) == 4


def test_cores_alone_and_visible(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add_chips(1, "Trn2")
    host.add_packages()
    monkeypatch.setenv(environment.LOGICAL, "1")
    monkeypatch.setenv(environment.VISIBLE, "1,6-9")
    found = plugin.pagoda_probe()
    assert [device.id for device in found] == ["1", "6", "7"]
    assert found[0].memory_bytes == 12 << 30


def test_without_nki_a_trainium2_gathers(host: Host) -> None:
    host.add_chips(1, "Trn2")
    host.add_packages()
    del host.versions["nki"]
    assert {device.details["nki"] for device in plugin.pagoda_probe()} == {"no"}


def test_unknown_chips_are_listed_with_their_problem(host: Host) -> None:
    host.add_chips(4, "Inf1")
    host.add_packages()
    (device,) = plugin.pagoda_probe()
    assert "inf1" in device.name and "trn2" in device.problem


def test_no_device(host: Host) -> None:
    host.add_packages()
    with pytest.raises(Unavailable, match=r"no /dev/neuron.*aws-neuronx-dkms"):
        plugin.pagoda_probe()


@pytest.mark.parametrize("package", packages.PLACEHOLDERS)
def test_placeholders_are_recognised(host: Host, package: str) -> None:
    host.add_chips(1, "Trn2")
    host.add_packages()
    host.versions[package] = packages.PLACEHOLDERS[package]
    host.empty.add(package)
    with pytest.raises(Unavailable) as told:
        plugin.pagoda_probe()
    assert f"{package} {packages.PLACEHOLDERS[package]}" in told.value.what
    assert f"pip uninstall {package}" in told.value.remedy
    assert "AWS's Neuron package index" in told.value.remedy
    assert "AWS's Neuron package index" in plugin.pagoda_diagnose().get(package, told.value.remedy)


@pytest.mark.parametrize("package", ["torch-neuronx", "neuronx-cc"])
def test_missing_packages(host: Host, package: str) -> None:
    host.add_chips(1, "Trn1")
    host.add_packages()
    del host.versions[package]
    with pytest.raises(Unavailable, match=rf"{package} is not installed.*AWS's Neuron package"):
        plugin.pagoda_probe()


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "torch is not installed"),
        ({"torch": "2.13.0"}, r"torch 2.13.0 is installed; 2.9 is needed"),
        ({"torch": "2.9.0"}, "torch-xla is not installed"),
        ({"torch": "2.9.0", "torch-xla": "2.8.1"}, "torch-xla 2.8.1 is installed"),
    ],
)
def test_another_torch(host: Host, versions: dict[str, str], said: str) -> None:
    host.versions = versions
    with pytest.raises(Unavailable, match=said):
        plugin.pagoda_probe()


def test_emulation_is_asked_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.pagoda_platform().priority == 200
    monkeypatch.setenv(environment.EMULATE, "1")
    (device,) = plugin.pagoda_probe()
    assert "in place of a NeuronCore" in device.name
    assert plugin.pagoda_platform().priority == 1
    monkeypatch.setenv(environment.EMULATE, "yes")
    with pytest.raises(InvalidValue, match="PAGODA_NEURON_EMULATE='yes'"):
        plugin.pagoda_probe()


def test_capabilities() -> None:
    found = plugin.pagoda_capabilities(model=None, devices=[])
    assert found.limits.max_requests == 32 and found.limits.max_tokens == 512
    assert Feature.TENSOR_PARALLEL not in found.features


@pytest.mark.parametrize(
    ("name", "version"), [("torch-neuronx", "1.0"), ("nki", "0.0.1"), ("nki", "9.9")]
)
def test_a_placeholder_as_it_is_installed(tmp_path: Path, name: str, version: str) -> None:
    """By its version, or by its size: nothing of AWS's is that small."""
    module = name.replace("-", "_")
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise ImportError('WRONG PACKAGE')\n")
    about = tmp_path / f"{module}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text(f"{module}/__init__.py,,36\n")
    code = "from pagoda_neuron.packages import placeholders; print(placeholders())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{name} {version}" in done.stdout
