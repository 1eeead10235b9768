"""Tool choices, strict tools and response formats as fields for the engine."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from elastic_agent.backends.vllm.process import vllm_python
from elastic_agent.errors import UnsupportedError
from elastic_agent.integrations.openai_format.guided_decoding import enforced_format, guided_fields
from elastic_agent.tool_calls import HERMES, split, tool_format

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
FORMAT = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
BAD = '<tool_call>\n{"name": "add", "arguments": {"a": "x"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "sub", "arguments": {}}\n</tool_call>'
CASES: list[tuple[str, tuple[Any, ...], list[str], list[str]]] = [
    ("forced", ([TOOL], "any", None, None), [CALL, f"{CALL}\n{CALL}"], ["hello", BAD, OTHER, f"hm {CALL}"]),
    ("one", ([TOOL], "add", False, None), [CALL], ["hello", f"{CALL}\n{CALL}"]),
    ("strict", ([STRICT], "auto", None, None), ["hello", CALL, f"hm {CALL}"], [BAD, OTHER]),
    ("at most one", ([TOOL], None, False, None), ["hello", CALL, BAD], [f"{CALL}\n{CALL}"]),
    ("either", ([TOOL], None, None, FORMAT), ["{}", CALL], ["hello"]),
]


@pytest.mark.skipif(vllm_python() is None, reason="no vLLM here, hence no xgrammar: `make vllm`")
def test_xgrammar_reads_the_grammars_as_meant() -> None:
    """vLLM hands them to xgrammar: what it accepts and refuses is checked with the real one."""
    checker = """
import json, sys, xgrammar
from xgrammar.testing import _is_grammar_accept_string
out = []
for tag, texts in json.load(sys.stdin):
    grammar = xgrammar.Grammar.from_structural_tag(tag)
    out.append([_is_grammar_accept_string(grammar, text) for text in texts])
print(json.dumps(out))
"""
    asked = [
        (guided_fields(*how)["structured_outputs"]["structural_tag"], [*good, *bad])
        for _, how, good, bad in CASES
    ]
    done = subprocess.run(
        [str(vllm_python()), "-c", checker],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    for (name, _, good, bad), accepted in zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert accepted == [True] * len(good) + [False] * len(bad), name


def test_what_needs_no_grammar_sends_none() -> None:
    """A plain call with tools costs no compiled grammar."""
    assert guided_fields([TOOL], "auto", None, None) == {}
    assert guided_fields([TOOL], None, True, {"type": "text"}) == {}
    assert guided_fields([], None, None, {"type": "json_object"}) == {
        "structured_outputs": {"json_object": True}
    }
    with pytest.raises(ValueError, match="response_format must be"):
        guided_fields([], None, None, {"type": "yaml"})


def test_an_enforced_call_is_read_whatever_the_models_format() -> None:
    """A grammar writes Hermes' JSON; what it can't watch for is refused, not promised."""
    format = tool_format("{{ '[TOOL_CALLS]' }}")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    fields = guided_fields(tools, "add", None, None)
    said = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert [call.arguments for call in split(said, enforced_format(format, fields))[1]] == [{"a": 1}]
    assert enforced_format(format, {}) is format
    strict = [{**tools[0], "function": {**tools[0]["function"], "strict": True}}]
    with pytest.raises(UnsupportedError, match="strict"):
        enforced_format(format, guided_fields(strict, "auto", None, None))
    assert enforced_format(HERMES, guided_fields(strict, "auto", None, None)) is HERMES
