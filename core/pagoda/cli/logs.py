"""Logging for commands: records to stderr, as many as the user asked for."""

from __future__ import annotations

import logging
import os

from pagoda.platform.errors import InvalidValue

VARIABLE = "PAGODA_LOGGING_LEVEL"
LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")


def set_up_logs(debug: bool, default: str = "WARNING") -> None:
    """Log at DEBUG with --debug, else at what the environment says, else at ``default``."""
    level = os.environ.get(VARIABLE, default).upper()
    if level not in LEVELS:
        raise InvalidValue(VARIABLE, level, f"must be one of {', '.join(LEVELS)}")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("pagoda").setLevel("DEBUG" if debug else level)
