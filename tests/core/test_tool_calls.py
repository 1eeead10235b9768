"""Tool calls as models write them: every format, cut anywhere, with its own tags in the arguments."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.tool_calls import HERMES, ToolCallSplitter, ToolFormat, WrittenCall, split, tool_format
from elastic_agent.tool_calls.formats import FORMATS

BY_NAME = {format.name: format for format in FORMATS}
PROPERTIES = {
    "x": {"type": "string"},
    "n": {"type": "integer"},
    "o": {"type": "object"},
    "l": {"type": "array"},
    "b": {"type": "boolean"},
    "m": {"anyOf": [{"type": "string"}, {"type": "null"}]},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}
    for name in ("f", "g", "now")
    for parameters in [{"type": "object", "properties": PROPERTIES}]
]
END = "</tool_call>"

# ruff: noqa: E501
WRITTEN: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    # C 14: the end tag in an argument
    ("hermes", f'<tool_call>{{"name": "f", "arguments": {{"x": "{END}"}}}}{END}', "", [("f", {"x": END})]),
    ("hermes", f'<tool_call>{{"name": "f", "arguments": {{"x": "\\"{END}\\\\"}}}}{END}', "", [("f", {"x": f'"{END}\\'})]),
    ("hermes", f'a <tool_call>{{"name": "g"}}{END} b <tool_call>{{"name": "now", "arguments": {{}}}}{END}c', "a  b c", [("g", {}), ("now", {})]),
    ("hermes", f'<tool_call>{{"name": "f", "arguments": "{{\\"n\\": 1}}"}}{END}', "", [("f", {"n": 1})]),
    ("hermes", f'<tool_call>{{"name": "f", "arguments": {{"x": "one\ntwo"}}}}{END}', "", [("f", {"x": "one\ntwo"})]),
    ("hermes", '<tool_call>[{"name": "f", "arguments": {"x": "]"}}, {"name": "g"}]', "", [("f", {"x": "]"}), ("g", {})]),
    # The XML of newer Qwens, and GLM's keys, between the same tags
    ("hermes", f"<tool_call>\n<function=f>\n<parameter=x>\n{END}\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n{END}.", ".", [("f", {"x": END, "n": 3})]),
    ("hermes", f"<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>{END}</arg_value>\n<arg_key>l</arg_key><arg_value>[1]</arg_value>\n{END}.", ".", [("f", {"x": END, "l": [1]})]),
    ("hermes", f"<tool_call>now{END}.", ".", [("now", {})]),
    ("qwen3_coder", f"<tool_call>\n<function=f>\n<parameter=x>\n</parameter> x </function> {END}\n</parameter>\n</function>\n{END}.", ".", [("f", {"x": f"</parameter> x </function> {END}"})]),
    ("qwen3_coder", f"<function=f>\n<parameter=x>\na</function>\nb\n</parameter>\n</function>\n{END}.", "\n.", [("f", {"x": "a</function>\nb"})]),
    ("qwen3_coder", f"<tool_call><function=f><parameter=b>true</parameter><parameter=o>{{'k': 1}}</parameter><parameter=m>null</parameter></function>{END}", "", [("f", {"b": True, "o": {"k": 1}, "m": None})]),
    ("qwen3_coder", f"<tool_call><function=f><parameter=n>3<parameter=x>a</function>{END}", "", [("f", {"n": 3, "x": "a"})]),
    ("qwen3_coder", f"<tool_call><function=now></function>{END}", "", [("now", {})]),
    ("qwen3_coder", '<function=f>{"x": "</function>"}</function>.', ".", [("f", {"x": "</function>"})]),
    ("seed_oss", "<seed:tool_call>\n<function=f>\n<parameter=x>1</parameter>\n</function>\n</seed:tool_call>", "", [("f", {"x": "1"})]),
    ("mistral", 'a[TOOL_CALLS][{"name": "f", "arguments": {"x": "]"}, "id": "abc123def"}] b', "a b", [("f", {"x": "]"})]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"x": "}"}[TOOL_CALLS]g[CALL_ID]a1[ARGS]{"n": 1}', "", [("f", {"x": "}"}), ("g", {"n": 1})]),
    ("deepseek_v3", 'a<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"x": "<｜tool▁calls▁end｜>"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{"n": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "a", [("f", {"x": "<｜tool▁calls▁end｜>"}), ("g", {"n": 2})]),
    ("deepseek_v32", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x" string="true">7</｜DSML｜parameter>\n<｜DSML｜parameter name="l" string="false">[1]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>', "", [("f", {"x": "7", "l": [1]})]),
    ("kimi_k2", '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"x": "1"}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>.', ".", [("f", {"x": "1"}), ("g", {})]),
    ("openai", '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": "<|call|>"}<|call|>', "", [("f", {"x": "<|call|>"})]),
    ("openai", ' to=functions.f <|constrain|>json<|message|>{"x": "1"}', "", [("f", {"x": "1"})]),
    ("granite", '<|tool_call|>[{"name": "f", "arguments": {"x": "]"}}] .', " .", [("f", {"x": "]"})]),
    ("phi4_mini", '<|tool_call|>[{"name": "f", "arguments": {"x": "<|/tool_call|>"}}]<|/tool_call|>', "", [("f", {"x": "<|/tool_call|>"})]),
    ("cohere", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"x": "1"}}]<|END_ACTION|>', "", [("f", {"x": "1"})]),
    ("nemotron", '<TOOLCALL>[{"name": "f", "arguments": {"x": "</TOOLCALL>"}}]</TOOLCALL>', "", [("f", {"x": "</TOOLCALL>"})]),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="x">a</minimax:tool_call></parameter>\n<parameter name="n">3</parameter>\n</invoke>\n</minimax:tool_call>', "", [("f", {"x": "a</minimax:tool_call>", "n": 3})]),
    ("llama3_json", '{"name": "f", "parameters": {"x": "};"}}; {"name": "g", "parameters": {}}', "", [("f", {"x": "};"}), ("g", {})]),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"x": "1"}}', "", [("f", {"x": "1"})]),
    ("llama3_json", '{"answer": 4} is it', '{"answer": 4} is it', []),
    ("llama3_json", 'so {"name": "f", "parameters": {}}', 'so {"name": "f", "parameters": {}}', []),
    ("llama4_pythonic", '[f(x="])", n=3), g()]', "", [("f", {"x": "])", "n": 3}), ("g", {})]),
    ("llama4_pythonic", '<|python_start|>[f(x="<|python_end|>")]<|python_end|>.', ".", [("f", {"x": "<|python_end|>"})]),
    ("lfm2", '<|tool_call_start|>[f(x="a", o={"k": true})]<|tool_call_end|>.', ".", [("f", {"x": "a", "o": {"k": True}})]),
    ("olmo3", '<function_calls>f(x="a")\ng()</function_calls>.', ".", [("f", {"x": "a"}), ("g", {})]),
    ("gemma4", '<|tool_call>call:f{x:<|"|>a, b: {c} <tool_call|><|"|>,n:3,o:{k:[1,true]}}<tool_call|>.', ".", [("f", {"x": "a, b: {c} <tool_call|>", "n": 3, "o": {"k": [1, True]}})]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said", "plain", "calls"), WRITTEN)
def test_every_format_is_read(
    name: str, said: str, plain: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """C 14 and its kind: whole, and cut into pieces of any size."""
    text, found = split(said, BY_NAME[name], TOOLS)
    assert (text, [(call.name, call.arguments) for call in found]) == (plain, calls)
    for size in range(1, 12):
        assert streamed(said, [size] * len(said), BY_NAME[name]) == (text, found)


def streamed(
    said: str, sizes: list[int], format: ToolFormat = HERMES, *, resumed: bool = False
) -> tuple[str, list[WrittenCall]]:
    splitter, plain, calls, at = ToolCallSplitter(format, TOOLS, resumed=resumed), "", list[WrittenCall](), 0
    for size in sizes:
        text, found = splitter.feed(said[at : at + size])
        plain, calls, at = plain + text, calls + found, at + size
    text, found = splitter.feed(said[at:])
    rest, more = splitter.flush()
    return plain + text + rest, [*calls, *found, *more]


PARTS = ["<tool_call>", END, '{"name": "f", "arguments": {"x": "', '"}}', '"', "\\", "{", "}", "[", "text ", "\n",
         "<function=f>", "</function>", "<parameter=x>", "</parameter>", "f", "<arg_key>x</arg_key>", "<arg_value>"]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.lists(st.integers(1, 9), max_size=30), st.booleans())
def test_a_stream_says_what_the_whole_says(parts: list[str], sizes: list[int], resumed: bool) -> None:
    """However broken the text is: nothing depends on where it is cut, and nothing of an attempt is lost."""
    said = "".join(parts)
    for format in (HERMES, BY_NAME["qwen3_coder"], BY_NAME["llama3_json"], BY_NAME["mistral"]):
        whole = split(said, format, TOOLS, resumed=resumed)
        assert streamed(said, sizes, format, resumed=resumed) == whole
        for call in whole[1]:
            assert (call.name is None) == (call.arguments is None) == bool(call.wrong)


@given(st.text(max_size=40), st.lists(st.integers(1, 9), max_size=30))
def test_any_argument_survives(argument: str, sizes: list[int]) -> None:
    """Whatever stands in an argument, JSON carries it."""
    import json

    said = f"<tool_call>{json.dumps({'name': 'f', 'arguments': {'x': argument + END}})}{END} done"
    plain, calls = streamed(said, sizes)
    assert (plain, [c.arguments for c in calls]) == (" done", [{"x": argument + END}])


@pytest.mark.parametrize(
    "body",
    ['{"name": "f"', '{"name": 3}', "nonsense", "[]", '{"name": "f", "arguments": [1]}', "f(1)",
     '{"name": "f", "arguments": {"n": NaN}}', "[" * 100_000, '{"name": "f, "arguments": {}}',
     "<function=f><parameter=x>1</parameter> and </function>", "<function=f"],
)  # fmt: skip
def test_what_is_no_call_is_told_as_written(body: str) -> None:
    """It is neither lost nor repaired, and what follows it is read."""
    said = f'<tool_call>{body}{END} then <tool_call>{{"name": "g"}}{END}'
    plain, calls = split(said, HERMES, TOOLS)
    assert (calls[0].name, calls[0].text, plain) == (None, f"<tool_call>{body}", " then ")
    assert calls[0].wrong
    assert [call.name for call in calls[1:]] == ["g"]


def test_the_rest_of_a_call_is_no_answer() -> None:
    """C 15: an end tag whose start was lost, right behind thinking that ended in one, and elsewhere."""
    rest = '"arguments": {"a": 1}} </tool_call> text'
    plain, calls = split(rest, resumed=True)
    assert (plain, calls[0].text, calls[0].name) == (" text", f"<tool_call>{rest[:-5]}", None)
    assert split("It is 4.", resumed=True) == ("It is 4.", [])
    assert [c.name for c in split(f'<tool_call>{{"name": "g"}}{END}', resumed=True)[1]] == ["g"]
    plain, calls = split(rest)
    assert (plain, [c.text for c in calls]) == (rest.replace(END, ""), [END])


@pytest.mark.parametrize(
    "said",
    ['<tool_call>{"name": "f", "arguments": {"x": "' + END * 20_000, "<tool_call>" * 20_000, END * 20_000,
     "<tool_call><function=f><parameter=x>" + f"</parameter>{END}" * 20_000, "<tool_call>" + "[" * 200_000],
)  # fmt: skip
def test_hostile_answers_take_linear_time(said: str) -> None:
    """Whatever is written, it is looked through about once."""
    began = time.process_time()
    streamed(said, [40] * (len(said) // 40))
    assert time.process_time() - began < 20


TEMPLATES = {
    "deepseekv3": "deepseek_v3", "diffusion_gemma": "gemma4", "gemma4_v5": "gemma4", "glm4moe": "hermes",
    "gptoss": "openai", "lfm2_2_5": "lfm2", "llama3_1": "llama3_json", "llama3_2": "llama3_json",
    "muse_glimmer": "muse_glimmer", "nemotron_3_nano": "qwen3_coder", "qwen2_5": "hermes", "qwen3": "hermes",
    "qwen3_5_think": "qwen3_coder", "qwen3_6": "qwen3_coder", "qwen3_8": "qwen3_coder", "gemma3": "hermes",
}  # fmt: skip
TAGS = '</tool_call> </function> </parameter> <tool_call|> <|tool_call_end|> {"]} <|call|>'


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_models_own_template_writes_is_read_back(name: str) -> None:
    """The templates are the standard: the format is found in their text, and a call that they render is read
    back as it was, with every end tag in its arguments."""
    trl = pytest.importorskip("trl")
    from transformers.utils.chat_template_utils import render_jinja_template

    file = Path(str(trl.__file__)).parent / "chat_templates" / f"{name}.jinja"
    if not file.exists():
        pytest.skip("this TRL has no such template")
    template = file.read_text()
    format = tool_format(template)
    assert format.name == TEMPLATES[name]
    if "tools" not in template:
        return
    arguments = {"x": TAGS, "n": 3, "o": {"a": [1, True]}, "l": ["x"], "b": True}
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
    asked: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}

    def render(messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
        rendered = render_jinja_template(
            [messages], chat_template=template, tools=TOOLS, add_generation_prompt=prompt, bos_token="",
            eos_token="",
        )  # fmt: skip
        return str(rendered[0][0])

    whole, before = render([*asked, answer]), render(asked)
    said = whole[len(before) :] if whole.startswith(before) else whole
    said = said.removeprefix("<|start_header_id|>assistant<|end_header_id|>")
    _, calls = split(said, format, TOOLS)
    assert [(c.name, c.arguments) for c in calls] == [("f", arguments)]
