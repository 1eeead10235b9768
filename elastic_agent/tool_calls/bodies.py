"""What stands between the tags of a tool call, as calls.

    {"name": "f", "arguments": {...}}, [{...}, ...]         JSON: Hermes, Qwen3, Llama 3, Granite, Cohere
    <function=f><parameter=x>1</parameter></function>       Qwen3-Coder, Qwen3.5, Seed-OSS, Nemotron 3
    f<arg_key>x</arg_key><arg_value>1</arg_value>           GLM 4.5 and later
    <invoke name="f"><parameter name="x">1</parameter>      MiniMax M2, DeepSeek V3.2
    call:f{x:1, y:<|"|>text<|"|>}                            Gemma 4
    [f(x=1), g()]                                           Llama 3.2 and 4, Olmo 3, LFM2
    BEGIN f SEP {...} END                                   DeepSeek R1 to V3.1, Kimi K2
    f[ARGS]{...}                                            Mistral

The value of an XML parameter is text. The tool's schema says what it stands for; without one it stays text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

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


def read_body(body: str, tools: Sequence[Schema] = ()) -> list[Call]:
    """The calls of a body; at least one.

    Args:
        body: what stands between the tags.
        tools: the tools' schemas, OpenAI-style.

    Raises:
        MalformedError: it is no call.
    """
    body = body.strip()
    try:
        if "<function=" in body and body.startswith("<function="):
            return _functions(body, tools)
        if re.match(rf"<{_SPACE}invoke ", body):
            return _invokes(body, tools)
        if body.startswith("call:"):
            return [_gemma(body)]
        if body.startswith(_TO):
            return [_addressed(body)]
        if _SECTION.search(body):
            return _sections(body)
        if body[:1] == "{" or re.match(r"\[\s*[\]{\"]", body):
            return _json(body)
        if "<arg_key>" in body or any(body == tool.get("function", {}).get("name") for tool in tools):
            return [_keys(body, tools)]
        if re.match(r"[\w.-]+\s*(?:\[(?:ARGS|CALL_ID)\]|\{)", body):
            return [_named(body)]
        try:
            return _python(body)
        except (MalformedError, ValueError, SyntaxError, TypeError):
            raise MalformedError("not JSON, and no call with its arguments by name") from None
    except MalformedError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        raise MalformedError(f"not JSON: {error}") from None


# JSON


def _no_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is not JSON")


# A model that writes a line break into a string means a line break
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def json_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins there, and where it ends.

    Raises:
        ValueError, RecursionError: there is none.
    """
    while start < len(text) and text[start].isspace():
        start += 1
    return _DECODER.raw_decode(text, start)


def _json(body: str) -> list[Call]:
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
    return _checked(name, arguments, id if isinstance(id, str) and id else None)


def _checked(name: Any, arguments: Any, id: str | None = None) -> Call:
    if not isinstance(name, str) or not name:
        raise MalformedError('a call is an object with "name" and "arguments"')
    if not isinstance(arguments, dict):
        raise MalformedError(f"the arguments of {name} are an object, by name")
    return name, arguments, id


# XML


_FUNCTION = re.compile(
    r"\s*<function=\s*([^>\s]+)\s*>(.*?)(?:</function>(?=\s*(?:<function=|$))|$)", re.DOTALL
)
_PARAMETER = re.compile(
    r"\s*<parameter=([^>]+)>(.*?)</parameter>(?=\s*(?:<parameter=|</function>|$))", re.DOTALL
)
_UNCLOSED = re.compile(r"\s*<parameter=([^>]+)>(.*?)(?:</parameter>|(?=<parameter=)|$)", re.DOTALL)


def _functions(body: str, tools: Sequence[Schema]) -> list[Call]:
    calls, at = [], 0
    while at < len(body):
        match = _FUNCTION.match(body, at)
        if match is None or match.end() == at:
            raise MalformedError("text between functions")
        name, inside = match[1], match[2].strip()
        if inside.startswith("{"):  # Functionary, Llama 3.1
            calls.append(_checked(name, json.loads(inside, strict=False, parse_constant=_no_constant)))
        else:
            found = _pairs(inside, _PARAMETER)
            if found is None:
                found = _pairs(inside, _UNCLOSED)
            if found is None:
                raise MalformedError("text between parameters")
            calls.append(_typed(name, [(k.strip(), _line(v)) for k, v in found], tools))
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


def _keys(body: str, tools: Sequence[Schema]) -> Call:
    name, tag, rest = body.partition("<arg_key>")
    found = _pairs((tag + rest).strip(), _KEY)
    if found is None or not re.fullmatch(r"[\w.-]+", name.strip()):
        raise MalformedError("text between arguments")
    return _typed(name.strip(), [(k.strip(), v) for k, v in found], tools)


_SPACE = r"(?:\uff5c\w+\uff5c|\w+:)?"  # some tags have one before their name
_INVOKE = re.compile(
    rf"\s*<{_SPACE}invoke name=\"?([^\">]+)\"?>(.*?)</{_SPACE}invoke>(?=\s*(?:<{_SPACE}invoke |$))", re.DOTALL
)
_ATTRIBUTED = re.compile(
    rf"\s*<{_SPACE}parameter name=\"?(?P<name>[^\">]+)\"?(?: string=\"(?P<text>true|false)\")?>"
    rf"(?P<value>.*?)</{_SPACE}parameter>(?=\s*(?:<{_SPACE}parameter name=|$))",
    re.DOTALL,
)


def _invokes(body: str, tools: Sequence[Schema]) -> list[Call]:
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
                kept[one["name"]] = json.loads(one["value"], strict=False, parse_constant=_no_constant)
            else:
                pairs.append((one["name"], _line(one["value"])))
            where = one.end()
        name, arguments, id = _typed(match[1], pairs, tools)
        calls.append((name, arguments | kept, id))
        at = match.end()
    return calls


def _typed(name: str, pairs: Sequence[tuple[str, str]], tools: Sequence[Schema]) -> Call:
    """The arguments as the tool's schema has them."""
    function: Mapping[str, Any] = next(
        (t["function"] for t in tools if t.get("function", {}).get("name") == name), {}
    )
    properties = (function.get("parameters") or {}).get("properties") or {}
    return _checked(name, {key: _value(text, properties.get(key)) for key, text in pairs})


def _value(text: str, schema: Any) -> Any:
    kinds = _kinds(schema)
    if not kinds or kinds == {"string"}:
        return text
    trimmed = text.strip()
    if trimmed.lower() in ("null", "none") and "null" in kinds:
        return None
    if trimmed.lower() in ("true", "false") and "boolean" in kinds:
        return trimmed.lower() == "true"
    try:
        value = json.loads(trimmed, strict=False, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        try:  # some write Python's literals
            value = ast.literal_eval(trimmed) if "object" in kinds or "array" in kinds else text
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return text
    return value if _kind(value) & kinds else text


def _kind(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number"}
    if isinstance(value, dict):
        return {"object"}
    if isinstance(value, list):
        return {"array"}
    return {"null"} if value is None else set()


def _kinds(schema: Any) -> set[str]:
    """The types that a property's schema allows, as far as they can be read off it."""
    if not isinstance(schema, Mapping):
        return set()
    said = schema.get("type")
    kinds = {said} if isinstance(said, str) else set(said) if isinstance(said, list) else set()
    for part in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(part) or ():
            kinds |= _kinds(one)
    if "$ref" in schema:
        kinds |= {"object", "array", "string"}
    for value in schema.get("enum") or ():
        kinds |= _kind(value) or {"string"}
    return kinds


# JSON behind a name


_SECTION = re.compile(
    r"(?P<deepseek><\uff5ctool\u2581call\u2581begin\uff5c>)(?P<header>.*?)<\uff5ctool\u2581sep\uff5c>"
    r"|<\|tool_call_begin\|>(?P<kimi>.*?)<\|tool_call_argument_begin\|>",
    re.DOTALL,
)


def _sections(body: str) -> list[Call]:
    calls, at = [], 0
    while (match := _SECTION.search(body, at)) is not None:
        if match["deepseek"] and match["header"].strip() == "function":  # R1 and V3: name, then a fence
            start = body.index("{", match.end())
            name, id = body[match.end() : start].split("\n")[0].strip(), None
        elif match["deepseek"]:
            start, name, id = match.end(), match["header"].strip(), None
        else:
            start, id = match.end(), match["kimi"].strip()
            name = id.rpartition(":")[0].removeprefix("functions.") or id
        arguments, at = json_value(body, start)
        calls.append(_checked(name, arguments, id))
    return calls


def _named(body: str) -> Call:
    """`f[ARGS]{...}`, `f[CALL_ID]id[ARGS]{...}` or `f{...}`."""
    match = re.match(r"([\w.-]+)\s*(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*", body)
    assert match is not None
    arguments, end = json_value(body, match.end())
    if body[end:].strip():
        raise MalformedError("text behind the arguments")
    return _checked(match[1], arguments, match[2])


_TO = "to="
_HEADER = re.compile(r"to=(?:functions\.)?([\w.-]+)(.*?)<\|message\|>", re.DOTALL)


def _addressed(body: str) -> Call:
    """`to=functions.f <|constrain|>json<|message|>{...}`: a message of gpt-oss to a tool."""
    header = _HEADER.match(body)
    if header is None:
        raise MalformedError("a message without a recipient")
    arguments, end = json_value(body, header.end())
    if body[end:].strip():
        raise MalformedError("text behind the arguments")
    return _checked(header[1], arguments)


_GEMMA_KEY = re.compile(r"([{,]\s*)([^\s{},:\[\]]+)\s*:")


def _gemma(body: str) -> Call:
    """`call:f{x:1, y:<|"|>text<|"|>}`: JSON with bare keys and a quote of its own."""
    name, brace, rest = body.removeprefix("call:").partition("{")
    parts = (brace + rest).split('<|"|>')
    for i, part in enumerate(parts):
        parts[i] = json.dumps(part) if i % 2 else _GEMMA_KEY.sub(r'\1"\2":', part)
    return _checked(name.strip(), json.loads("".join(parts), parse_constant=_no_constant))


# Python


def _python(body: str) -> list[Call]:
    tree: Any = ast.parse(
        body if body.startswith("[") else f"[{','.join(body.splitlines())}]", mode="eval"
    ).body
    if not isinstance(tree, ast.List) or not tree.elts:
        raise MalformedError("not a list of calls")
    calls = []
    for call in tree.elts:
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise MalformedError("not a call with its arguments by name")
        arguments = {str(k.arg): _literal(k.value) for k in call.keywords}
        json.dumps(arguments, allow_nan=False)  # what JSON can't write is no argument
        calls.append(_checked(ast.unparse(call.func), arguments))
    return calls


class _Constants(ast.NodeTransformer):
    """JSON's constants among Python's literals."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in (known := {"true": True, "false": False, "null": None}):
            return ast.copy_location(ast.Constant(known[node.id]), node)
        return node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Constants().visit(node))
