"""The formats in which models write tool calls, and which of them a chat template asks for.

A template that can render tools holds the tags that its model writes, so the tags are looked for in its text.
A model without a template, or with none of these tags, is read as Hermes writes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How one family of models writes tool calls.

    Attributes:
        name: as vLLM calls its parser, where it has one.
        opens: tags that begin a block of calls, each with its own end tag. "" where the block ends with the
            value that follows.
        control: further control strings inside of a block, which decoding has to keep.
        bare: an answer that begins with a call's JSON or Python is a call, without any tag.
        in_thinking: a tag that stands in thinking begins a call there. Where thinking has an end of its own
            before a call (gpt-oss' channels) it is talk.
        asked_by: a template that holds one of these strings asks for this format.
    """

    name: str
    opens: tuple[tuple[str, str], ...]
    control: tuple[str, ...] = ()
    bare: bool = False
    in_thinking: bool = True
    asked_by: tuple[str, ...] = ()

    @property
    def tags(self) -> frozenset[str]:
        """Every string that decoding has to keep, though the vocabulary may have it as a control token."""
        return frozenset(tag for pair in self.opens for tag in pair if tag) | frozenset(self.control)

    @property
    def starts(self) -> tuple[str, ...]:
        """What begins a call."""
        return tuple(start for start, _ in self.opens)


_CALLS, _CALLS_END = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
_CALL = (
    "<\uff5ctool\u2581call\u2581begin\uff5c>",
    "<\uff5ctool\u2581sep\uff5c>",
    "<\uff5ctool\u2581call\u2581end\uff5c>",
)
_KIMI = ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")

_FUNCTION = ("<function=", "</function>")
_TAGS = ("<tool_call>", "</tool_call>")
HERMES = ToolFormat("hermes", (_TAGS,), asked_by=("<tool_call>",))
"""Qwen2.5, Qwen3 and Granite 4 with JSON, GLM with keys and values: one pair of tags."""

# The first that a template asks for; those with the rarer tags come first
FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("deepseek_v3", ((_CALLS, _CALLS_END),), _CALL, asked_by=(_CALLS,)),
    ToolFormat(
        "deepseek_v32",
        (
            ("<\uff5cDSML\uff5cfunction_calls>", "</\uff5cDSML\uff5cfunction_calls>"),
            ("<\uff5cDSML\uff5ctool_calls>", "</\uff5cDSML\uff5ctool_calls>"),
        ),
        ("\uff5cDSML\uff5c",),
        asked_by=("\uff5cDSML\uff5c",),
    ),
    ToolFormat(
        "kimi_k2",
        (("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
        _KIMI,
        asked_by=("<|tool_calls_section_begin|>",),
    ),
    ToolFormat(
        "openai",
        (
            ("<|start|>assistant<|channel|>commentary to=", "<|call|>"),
            ("<|start|>assistant<|channel|>analysis to=", "<|call|>"),
            ("<|start|>assistant to=", "<|call|>"),
            ("<|channel|>commentary to=", "<|call|>"),
            ("<|channel|>analysis to=", "<|call|>"),
            (" to=functions.", "<|call|>"),
        ),
        ("<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"),
        in_thinking=False,
        asked_by=("<|channel|>",),
    ),
    ToolFormat("mistral", (("[TOOL_CALLS]", ""),), ("[ARGS]", "[CALL_ID]"), asked_by=("[TOOL_CALLS]",)),
    ToolFormat("seed_oss", (("<seed:tool_call>", "</seed:tool_call>"),), asked_by=("<seed:tool_call>",)),
    ToolFormat(
        "minimax_m2",
        (("<minimax:tool_call>", "</minimax:tool_call>"),),
        asked_by=("minimax:tool_call",),
    ),
    ToolFormat(
        "muse_glimmer",
        (("<atem:function_calls>", "</atem:function_calls>"),),
        asked_by=("<atem:function_calls>",),
    ),
    ToolFormat("cohere", (("<|START_ACTION|>", "<|END_ACTION|>"),), asked_by=("<|START_ACTION|>",)),
    ToolFormat("lfm2", (("<|tool_call_start|>", "<|tool_call_end|>"),), asked_by=("<|tool_call_start|>",)),
    ToolFormat("phi4_mini", (("<|tool_call|>", "<|/tool_call|>"),), asked_by=("<|/tool_call|>",)),
    ToolFormat("granite", (("<|tool_call|>", ""),), asked_by=("<|tool_call|>",)),
    ToolFormat("nemotron", (("<TOOLCALL>", "</TOOLCALL>"),), asked_by=("<TOOLCALL>",)),
    ToolFormat("olmo3", (("<function_calls>", "</function_calls>"),), asked_by=("<function_calls>",)),
    ToolFormat("gemma4", (("<|tool_call>", "<tool_call|>"),), ('<|"|>',), asked_by=("<|tool_call>",)),
    # Qwen3-Coder, Qwen3.5 and Nemotron 3 now and then leave the outer tag out
    ToolFormat("qwen3_coder", (_TAGS, _FUNCTION), asked_by=("<function=",)),
    HERMES,
    ToolFormat(
        "llama4_pythonic",
        (("<|python_start|>", "<|python_end|>"),),
        bare=True,
        asked_by=("<|python_start|>",),
    ),
    ToolFormat(
        "llama3_json",
        (("<|python_tag|>", ""),),
        bare=True,
        asked_by=("<|python_tag|>", "Environment: ipython", '{"name": function name, "parameters":'),
    ),
)


def tool_format(template: str | None) -> ToolFormat:
    """The format that a chat template asks for."""
    if template:
        for one in FORMATS:
            if any(sign in template for sign in one.asked_by):
                return one
    return HERMES
