"""Bodies in JSON: plain, behind a name, in sections, or with bare keys (Gemma)."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .written_call import Call, MalformedError, checked_call


def _no_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is not JSON")


# A model that writes a line break into a string means a line break
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def strict_json(text: str) -> Any:
    """A whole text as JSON; line breaks in strings are allowed, NaN and infinities are not.

    Raises:
        ValueError, RecursionError: the text is none.
    """
    return _DECODER.decode(text)


def json_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins there, and where it ends.

    Raises:
        ValueError, RecursionError: there is none.
    """
    while start < len(text) and text[start].isspace():
        start += 1
    return _DECODER.raw_decode(text, start)


def read_json(body: str) -> list[Call]:
    """One object, several in a row, or a list of them."""
    found: list[Any] = []
    at = 0
    while at < len(body):
        value, at = json_value(body, at)
        found += value if isinstance(value, list) else [value]
        at += len(re.match(r"[\s,;]*", body[at:])[0])  # type: ignore[index]
    if not found:
        raise MalformedError("an empty list")
    return [json_call(one) for one in found]


def json_call(value: Any) -> Call:
    """An object as a call.

    Raises:
        MalformedError: it isn't one.
    """
    if not isinstance(value, dict):
        raise MalformedError('a call is an object with "name" and "arguments"')
    if isinstance(value.get("function"), dict):  # OpenAI's own shape
        value = {"id": value.get("id"), **value["function"]}
    name = value.get("name", value.get("tool_name"))
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments, _ = json_value(arguments)
        except ValueError:
            raise MalformedError("the arguments are an object, by name") from None
    if arguments is None:
        arguments = {}
    id = value.get("id", value.get("tool_call_id"))
    return checked_call(name, arguments, id if isinstance(id, str) and id else None)


SECTION = re.compile(
    r"(?P<deepseek><\uff5ctool\u2581call\u2581begin\uff5c>)(?P<header>.*?)<\uff5ctool\u2581sep\uff5c>"
    r"|<\|tool_call_begin\|>(?P<kimi>.*?)<\|tool_call_argument_begin\|>",
    re.DOTALL,
)


def read_sections(body: str) -> list[Call]:
    calls, at = [], 0
    while (match := SECTION.search(body, at)) is not None:
        if match["deepseek"] and match["header"].strip() == "function":  # R1 and V3: name, then a fence
            start = body.index("{", match.end())
            name, id = body[match.end() : start].split("\n")[0].strip(), None
        elif match["deepseek"]:
            start, name, id = match.end(), match["header"].strip(), None
        else:
            start, id = match.end(), match["kimi"].strip()
            name = id.rpartition(":")[0].removeprefix("functions.") or id
        arguments, at = json_value(body, start)
        calls.append(checked_call(name, arguments, id))
    return calls


def _last_value(body: str, start: int) -> Any:
    """The JSON value that begins there; nothing may stand behind it."""
    value, end = json_value(body, start)
    if body[end:].strip():
        raise MalformedError("text behind the arguments")
    return value


def read_named(body: str) -> Call:
    """`f[ARGS]{...}`, `f[CALL_ID]id[ARGS]{...}` or `f{...}`."""
    match = re.match(r"([\w.-]+)\s*(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*", body)
    assert match is not None
    return checked_call(match[1], _last_value(body, match.end()), match[2])


RECIPIENT = "to="


_HEADER = re.compile(r"to=(?:functions\.)?([\w.-]+)(.*?)<\|message\|>", re.DOTALL)


def read_addressed(body: str) -> Call:
    """`to=functions.f <|constrain|>json<|message|>{...}`: a message of gpt-oss to a tool."""
    header = _HEADER.match(body)
    if header is None:
        raise MalformedError("a message without a recipient")
    return checked_call(header[1], _last_value(body, header.end()))


_GEMMA_KEY = re.compile(r"([{,]\s*)([^\s{},:\[\]]+)\s*:")


def read_gemma(body: str) -> Call:
    """`call:f{x:1, y:<|"|>text<|"|>}`: JSON with bare keys and a quote of its own."""
    name, brace, rest = body.removeprefix("call:").partition("{")
    parts = (brace + rest).split('<|"|>')
    for i, part in enumerate(parts):
        parts[i] = json.dumps(part) if i % 2 else _GEMMA_KEY.sub(r'\1"\2":', part)
    return checked_call(name.strip(), json.loads("".join(parts), parse_constant=_no_constant))
