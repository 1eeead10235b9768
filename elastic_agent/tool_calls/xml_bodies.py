"""Bodies in XML: functions with parameters, invocations, keys and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .json_bodies import strict_json
from .schema_values import typed_arguments
from .written_call import Call, MalformedError, Schema, checked_call

_FUNCTION = re.compile(
    r"\s*<function=\s*([^>\s]+)\s*>(.*?)(?:</function>(?=\s*(?:<function=|$))|$)", re.DOTALL
)


_PARAMETER = re.compile(
    r"\s*<parameter=([^>]+)>(.*?)</parameter>(?=\s*(?:<parameter=|</function>|$))", re.DOTALL
)


_UNCLOSED = re.compile(r"\s*<parameter=([^>]+)>(.*?)(?:</parameter>|(?=<parameter=)|$)", re.DOTALL)


def read_functions(body: str, tools: Sequence[Schema]) -> list[Call]:
    calls, at = [], 0
    while at < len(body):
        match = _FUNCTION.match(body, at)
        if match is None or match.end() == at:
            raise MalformedError("text between functions")
        name, inside = match[1], match[2].strip()
        if inside.startswith("{"):  # Functionary, Llama 3.1
            calls.append(checked_call(name, strict_json(inside)))
        else:
            found = _pairs(inside, _PARAMETER)
            if found is None:
                found = _pairs(inside, _UNCLOSED)
            if found is None:
                raise MalformedError("text between parameters")
            calls.append(typed_arguments(name, [(k.strip(), _line(v)) for k, v in found], tools))
        at = match.end()
        at += len(body[at:]) - len(body[at:].lstrip())
    return calls


def _pairs(inside: str, pattern: re.Pattern[str]) -> list[tuple[str, str]] | None:
    """Names and values that fill the text; None where something else stands between."""
    found, at = list[tuple[str, str]](), 0
    while at < len(inside):
        match = pattern.match(inside, at)
        if match is None or match.end() == at:
            return None if inside[at:].strip() else found
        found.append((match[1], match[2]))
        at = match.end()
    return found


def _line(value: str) -> str:
    """Without the line break that a template puts around a value."""
    return value.removeprefix("\n").removesuffix("\n")


_KEY = re.compile(
    r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>(?=\s*(?:<arg_key>|$))", re.DOTALL
)


def read_keys(body: str, tools: Sequence[Schema]) -> Call:
    name, tag, rest = body.partition("<arg_key>")
    found = _pairs((tag + rest).strip(), _KEY)
    if found is None or not re.fullmatch(r"[\w.-]+", name.strip()):
        raise MalformedError("text between arguments")
    return typed_arguments(name.strip(), [(k.strip(), v) for k, v in found], tools)


NAMESPACE = r"(?:\uff5c\w+\uff5c|\w+:)?"  # some tags have one before their name


_INVOKE = re.compile(
    rf"\s*<{NAMESPACE}invoke name=\"?([^\">]+)\"?>(.*?)</{NAMESPACE}invoke>(?=\s*(?:<{NAMESPACE}invoke |$))",
    re.DOTALL,
)


_ATTRIBUTED = re.compile(
    rf"\s*<{NAMESPACE}parameter name=\"?(?P<name>[^\">]+)\"?(?: string=\"(?P<text>true|false)\")?>"
    rf"(?P<value>.*?)</{NAMESPACE}parameter>(?=\s*(?:<{NAMESPACE}parameter name=|$))",
    re.DOTALL,
)


def read_invokes(body: str, tools: Sequence[Schema]) -> list[Call]:
    calls, at = [], 0
    while body[at:].strip():
        match = _INVOKE.match(body, at)
        if match is None:
            raise MalformedError("text between invocations")
        inside, pairs, kept, where = match[2].strip(), list[tuple[str, str]](), dict[str, Any](), 0
        while where < len(inside):
            one = _ATTRIBUTED.match(inside, where)
            if one is None:
                raise MalformedError("text between parameters")
            if one["text"] == "false":
                kept[one["name"]] = strict_json(one["value"])
            else:
                pairs.append((one["name"], _line(one["value"])))
            where = one.end()
        name, arguments, id = typed_arguments(match[1], pairs, tools)
        calls.append((name, arguments | kept, id))
        at = match.end()
    return calls
