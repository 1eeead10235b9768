"""Whether an engine can keep to the fields of a guided call, found out before a token is spent.

`Backend.refusal` asks the engine, where this costs nothing. This module checks what an engine finds out only
while it samples: that the model's vocabulary can write the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..backends.base import Backend, Codec
from ..errors import UnsupportedError

FIELD = "structured_outputs"
_WRITTEN_IN = {"object": "{}", "array": "[]", "string": '"'}


async def check_guided_fields(backend: Backend, fields: Mapping[str, Any] | None) -> None:
    """Refuse fields that the call can't be guided by, as far as this can be known. Costs no token.

    Args:
        fields: the fields for the solution's pass (`Call`'s `solution_extra`). Only vLLM's
            `structured_outputs` is looked at.

    Raises:
        UnsupportedError: the vocabulary can't write what the fields demand, or the engine refuses them.
    """
    guide = {name: value for name, value in (fields or {}).items() if name == FIELD}
    if not guide or not backend.guided:  # a call refuses guided fields on such a backend itself
        return
    if missing := unwritable(backend.codec, guide):
        raise UnsupportedError(
            f"the vocabulary of {backend.model} can't write {' '.join(missing)}, so no grammar can make it "
            f"answer like this: leave out the format or the tool choice, or use another model"
        )
    if why := await backend.refusal(guide):
        raise UnsupportedError(
            f"the engine of {backend.model} can't guide by this schema: {why}. Change the schema"
        )


def unwritable(codec: Codec, fields: Mapping[str, Any]) -> list[str]:
    """Characters that every answer under these fields needs and that no token of the vocabulary writes."""
    needed = _needed(fields.get(FIELD))
    return [one for one in dict.fromkeys(needed) if one not in codec.decode(codec.encode(one))]


def _needed(guide: Any) -> str:
    """Characters that every answer needs; "" where none are known."""
    match guide:
        case {"json_object": True}:
            return _WRITTEN_IN["object"]
        case {"json": schema}:
            return _of_schema(_read(schema))
        case {"structural_tag": str(text)}:
            return _of_tag(_read(text))
    return ""


def _read(given: Any) -> Any:
    """A schema, parsed where it is text; None where the text is no JSON, which the engine itself refuses."""
    try:
        return json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        return None


def _of_schema(schema: Any) -> str:
    match schema:
        case {"type": str(kind)}:
            return _WRITTEN_IN.get(kind, "")
    return ""


def _of_tag(tag: Any) -> str:
    match tag:
        case {"format": {"type": "tags_with_separator"}}:
            return "<>{}"  # each call is an object between tags
        case {"format": {"type": "or", "elements": [{"json_schema": schema}, _]}} if (
            _of_schema(schema) == _WRITTEN_IN["object"]
        ):
            return "{}"  # a call has an object in it, too
    return ""
