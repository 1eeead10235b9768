"""A model that does what LangChain's integration suite asks for, by rule: no intelligence, always the same.

It obeys guided decoding as an engine does: the fields of the pass say what may be written, and it writes the
smallest thing of that shape, with numbers, quoted names and such taken from the prompt. Unguided it calls a
tool when the last message asks about the weather, and else it talks. So a tool choice or a schema that does
not reach the engine shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from elastic_agent.backends.scripted import Reply, ScriptedBackend

THINKING = "let me see what is asked"


class Competent(ScriptedBackend):
    """See the module."""

    def reply(self, prompt: str, extra: Mapping[str, Any]) -> Reply:
        guide = extra.get("structured_outputs", {})
        if "structural_tag" in guide:
            return Reply(THINKING, _calls(json.loads(guide["structural_tag"])["format"], prompt))
        if "json" in guide:
            schema = json.loads(guide["json"])
            return Reply(THINKING, json.dumps(_example(schema, prompt, schema)))
        if "json_object" in guide:
            keys = re.findall(r"'(\w+)'", prompt)
            return Reply(THINKING, json.dumps(dict.fromkeys(keys, "something")))
        if "weather" in (last := prompt.rpartition("user ")[2]) and "tool " not in last:
            return Reply(THINKING, _call("get_weather", {"location": "San Francisco, CA"}))
        return Reply(THINKING, "hello to you too, and that is all")


def _calls(form: Mapping[str, Any], prompt: str) -> str:
    if form["type"] == "triggered_tags":
        return "no call is needed"
    if form["type"] == "or":
        form = form["elements"][-1]
    tags = {re.findall(r'"name": "(\w+)"', tag["begin"])[0]: tag for tag in form["tags"]}
    last = prompt.rpartition("user ")[2]
    name = next((name for name in tags if name in last), next(iter(tags)))
    schema = tags[name]["content"]["json_schema"]
    return _call(name, _example(schema, last, schema))


def _call(name: str, args: Mapping[str, Any]) -> str:
    call = f'{{"name": "{name}", "arguments": {json.dumps(args, ensure_ascii=False)}}}'
    return f"<tool_call>\n{call}\n</tool_call>"


def _example(schema: Mapping[str, Any], prompt: str, root: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(root["$defs"][schema["$ref"].rpartition("/")[2]], prompt, root)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], prompt, root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _example(one, prompt, root) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema["items"], prompt, root)]
    if kind in ("integer", "number"):
        return int((re.findall(r"\d+", prompt) or ["1"])[0])
    if kind == "boolean":
        return True
    return (re.findall(r"[^\x00-\x7f]+", prompt) or ["something"])[0]
