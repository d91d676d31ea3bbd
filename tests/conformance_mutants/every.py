"""All mutants: importing this fills the table."""

from conformance_mutants import attention, cache, platform, sampling, steps
from conformance_mutants.catalog import CATALOG, Mutant
from conformance_mutants.modest import MODEST

__all__ = ["CATALOG", "attention", "cache", "find", "platform", "sampling", "steps"]


def find(name: str) -> Mutant:
    """By the platform's name, for its plugin module."""
    return MODEST.get(name) or CATALOG[name]
