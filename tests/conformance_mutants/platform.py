"""Mistakes of a plugin: what it declares, and what asking it does."""

from __future__ import annotations

import dataclasses
import os

from conformance_mutants.catalog import mutant
from pagoda.models.weights import list_weights
from pagoda.platform import DeviceInfo, StepLimits
from pagoda.reference.llama import Llama
from pagoda.reference.load import as_float32, iter_weights
from pagoda.reference.runner import ReferenceRunner


def declaring(**changes):
    return lambda capabilities: dataclasses.replace(capabilities, **changes)


@mutant(
    "test_features.py::test_every_declared_variant_computes",
    "float16 is declared and cannot be had",
    declares=declaring(dtypes=("float32", "float16")),
)
class DeclaredAndNotThere(ReferenceRunner):
    """float16 is declared; the runner refuses it."""


@mutant(
    "test_features.py::test_every_declared_variant_computes",
    "int4 is declared and cannot be had",
    declares=declaring(quantizations=("int4",)),
)
class QuantizationNotThere(ReferenceRunner):
    pass


@mutant(
    "test_identity.py::test_capabilities",
    "token_sizes .* are not ascending",
    declares=declaring(limits=StepLimits(512, 8, token_sizes=(8, 4))),
)
class SizesUnsorted(ReferenceRunner):
    pass


@mutant(
    "test_identity.py::test_the_plugin_imports_nothing_heavy",
    "importing the plugin loads .*jinja2",
    first_line="import jinja2",
)
class HeavyImport(ReferenceRunner):
    pass


def probe_and_set():
    os.environ["MUTANT_WAS_HERE"] = "1"
    return [DeviceInfo("0", "a device")]


@mutant(
    "test_identity.py::test_asking_changes_nothing",
    "probing changed os.environ",
    hooks={"pagoda_probe": probe_and_set},
)
class EnvironmentChanged(ReferenceRunner):
    pass


def add_arguments(group):
    group.add_argument("--threads")


@mutant(
    "test_identity.py::test_arguments_begin_with_the_platforms_name",
    "'--threads'. do not begin with",
    hooks={"pagoda_add_arguments": add_arguments},
)
class NamelessOption(ReferenceRunner):
    pass


def settings(model, devices):
    return {"max_seqs": 3}


@mutant(
    "test_identity.py::test_settings_are_known",
    "pagoda_settings names .'max_seqs'",
    hooks={"pagoda_settings": settings},
)
class UnknownSetting(ReferenceRunner):
    pass


@mutant("test_errors.py::test_damaged_weights", "load raised None, not BadCheckpoint")
class WeightsMadeUp(ReferenceRunner):
    """What is missing or misshapen in the checkpoint is left at zero."""

    def load(self):
        import numpy as np

        found = {
            raw.name: as_float32(raw)
            for raw in iter_weights(self.model.path)
            if raw.name in list_weights(self.model.path)
        }
        weights = {
            name: found[name] if name in found and found[name].shape == size else np.zeros(size)
            for name, size in self.shape.tensors().items()
        }
        self._llama = Llama(self.shape, weights, self.config.max_model_len)
