"""A tool call as the model wrote it, and the error for text that is no call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """One call as the model wrote it.

    Attributes:
        text: as written, its start tag before it.
        name: the tool's; None where the text is no call.
        arguments: by name; None where the text is no call.
        id: the model's own, where its format has one.
        wrong: what is wrong with a text that is no call.
        closed: its end tag stood behind it.
    """

    text: str
    name: str | None = None
    arguments: dict[str, Any] | None = None
    id: str | None = None
    wrong: str = ""
    closed: bool = True


Call = tuple[str, dict[str, Any], str | None]
"""(name, arguments, id)."""


class MalformedError(ValueError):
    """A body that is no call."""


def checked_call(name: Any, arguments: Any, id: str | None = None) -> Call:
    if not isinstance(name, str) or not name:
        raise MalformedError('a call is an object with "name" and "arguments"')
    if not isinstance(arguments, dict):
        raise MalformedError(f"the arguments of {name} are an object, by name")
    return name, arguments, id
