"""Field types that several requests share, and the rule for fields that we cannot honour."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class RequestModel(BaseModel):
    """A JSON object in which unknown names, wrong types and NaN are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def only(*accepted: object) -> Any:
    """A check for fields that clients may send, but only with a value that asks for nothing."""

    def check(value: Any) -> Any:
        if value is not None and not any(type(value) is type(a) and value == a for a in accepted):
            rest = f" (only {accepted[0]!r})" if accepted else ""
            raise PydanticCustomError("unsupported", f"not supported by this server{rest}")
        return value

    return AfterValidator(check)


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for token in value:
        if not (token.isascii() and token.isdecimal() and len(token) <= 10):
            raise ValueError("the names must be token ids, such as '50256'")
    return value


def read_prompts(value: Any) -> list[str | list[int]]:
    """The prompts of a completion: text, token ids, or a list of either."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, a list of strings, token ids or a list of those")
    for i, prompt in enumerate(value):
        where = f"prompt {i} " if len(value) > 1 else ""
        if not isinstance(prompt, str | list):
            raise ValueError(f"{where}must be a string or a list of token ids")
        if not prompt:
            raise ValueError(f"{where}must not be empty")
        if isinstance(prompt, list) and not all(_is_id(token) for token in prompt):
            raise ValueError(f"{where}must have whole numbers from 0 as token ids")
    return value


def _is_id(token: Any) -> bool:
    return type(token) is int and 0 <= token < 2**31


Int = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TokenIds = list[Annotated[int, Field(ge=0, lt=2**31)]]
Stops = Annotated[list[str], BeforeValidator(_stops)]
Biases = Annotated[dict[str, float], AfterValidator(_biases)]
Prompts = Annotated[list[str | list[int]], BeforeValidator(read_prompts)]
Absent = Annotated[Any, only()]
FalseOnly = Annotated[Any, only(False)]
OneOnly = Annotated[Any, only(1, 1.0)]
EmptyOnly = Annotated[Any, only("")]
TextOnly = Annotated[Any, only(["text"])]
Ignored = Any
"""Accepted and without effect here: it concerns billing, storage or speed at another provider."""
