"""All mutants: importing this fills the table."""

from conformance_mutants import attention, cache, platform, sampling, steps
from conformance_mutants.catalog import CATALOG

__all__ = ["CATALOG", "attention", "cache", "platform", "sampling", "steps"]
