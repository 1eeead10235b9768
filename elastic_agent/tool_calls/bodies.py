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

import re
from collections.abc import Sequence

from .json_bodies import RECIPIENT, SECTION, read_addressed, read_gemma, read_json, read_named, read_sections
from .python_bodies import read_python
from .written_call import Call, MalformedError, Schema
from .xml_bodies import NAMESPACE, read_functions, read_invokes, read_keys


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
            return read_functions(body, tools)
        if re.match(rf"<{NAMESPACE}invoke ", body):
            return read_invokes(body, tools)
        if body.startswith("call:"):
            return [read_gemma(body)]
        if body.startswith(RECIPIENT):
            return [read_addressed(body)]
        if SECTION.search(body):
            return read_sections(body)
        if body[:1] == "{" or re.match(r"\[\s*[\]{\"]", body):
            return read_json(body)
        if "<arg_key>" in body or any(body == tool.get("function", {}).get("name") for tool in tools):
            return [read_keys(body, tools)]
        if re.match(r"[\w.-]+\s*(?:\[(?:ARGS|CALL_ID)\]|\{)", body):
            return [read_named(body)]
        try:
            return read_python(body)
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
