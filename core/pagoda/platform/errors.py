"""The errors that Pagoda explains: what is wrong, where, and what to do about it."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()  # looks at little of what may be huge or nested without end
_SHORT.maxstring = _SHORT.maxother = 100


class PagodaError(Exception):
    """A failure with its story told: ``str(error)`` ends with the remedy where there is one."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(f"{what}. Try: {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.what, self.remedy)


class Unavailable(PagodaError):
    """A platform or a device cannot be used here."""


class UnsupportedFeature(PagodaError):
    """The chosen platform does not offer what was asked for."""


class OutOfMemory(PagodaError):
    """Weights, cache or one step do not fit; the message has the numbers."""


class BadCheckpoint(PagodaError):
    """A model folder is incomplete or not understood; the message names the file or tensor."""


class InvalidValue(PagodaError):
    """A setting or request field out of range: names the field, the value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str):
        shown = _SHORT.repr(value)
        super().__init__(f"{field}={shown if len(shown) <= 100 else shown[:97] + '...'}: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:  # type: ignore[override]
        return type(self), (self.field, self.value, self.allowed)


class QueueFull(PagodaError):
    """Too many requests are waiting; the same request may succeed later."""


class EngineDead(PagodaError):
    """The engine stopped on an error; the message carries the original traceback."""
