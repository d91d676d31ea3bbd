"""What the kit's tests, and the suites that platforms add, are given."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from pagoda.conformance.subject import Opened, Subject

__all__ = ["SUBJECT", "Opened", "Subject", "id_of", "opened", "rng", "subject"]

SUBJECT = pytest.StashKey[Subject]()


@pytest.fixture(scope="session")
def subject(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The platform under test."""
    found = pytestconfig.stash[SUBJECT]
    found.folder = tmp_path_factory.mktemp("models")
    return found


@pytest.fixture
def opened(request: pytest.FixtureRequest, subject: Subject) -> Opened:
    """A loaded runner, shared by all tests of one model and variant; do not close it.

    Runs the test on every variant, and on the models of the marker ``models``."""
    family, variant = request.param
    return subject.shared(family, variant)


@pytest.fixture
def rng(request: pytest.FixtureRequest, subject: Subject) -> np.random.Generator:
    """Random inputs: from the run's seed and the test's name, so that one test alone repeats."""
    return np.random.default_rng([subject.seed, zlib.crc32(id_of(request.node).encode())])


def id_of(item: pytest.Item) -> str:
    """``test_file.py::test_name[parameters]``, wherever pytest runs from."""
    return f"{item.path.name}::{item.name}"
