"""Templates open thinking, leave out that of earlier answers, and say everything else as before."""

from __future__ import annotations

from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.prompts.marker_profiles import KNOWN_MARKERS
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.tokenizer import HFCodec
from elastic_agent.training.prepare.template import chatml, thinking_template
from tests.training.prepare.bases import TEMPLATE, bpe

THINK = KNOWN_MARKERS[0]
ASKED = {"role": "user", "content": "a"}
TALK = [ASKED, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb"}, ASKED]
QWEN3 = """\
{%- for m in messages %}{%- set c = m.content.split('</think>')[-1].lstrip('\\n') %}<|im_start|>{{ m.role }}
{{ c }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
OPENING = TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


def shown(template: str, messages: Any = (ASKED,), **options: Any) -> str:
    options = {"add_generation_prompt": True, **options}
    said: str = bpe(template=template).apply_chat_template(list(messages), tokenize=False, **options)
    return said


def made(template: str) -> str:
    found: str = thinking_template(bpe(template=template), THINK, "base")
    return found


@pytest.mark.parametrize("template", [TEMPLATE, OPENING, QWEN3, chatml("<|im_end|>"), TEMPLATE + "\n"])
def test_thinking_is_opened_once(template: str) -> None:
    """Whatever the base's template does by itself, the prompt ends in an open block; the codec sees it."""
    text = made(template)
    assert shown(text).endswith("<|im_start|>assistant\n<think>\n")
    assert shown(text).count("<think>") == 1
    codec = HFCodec(bpe(template=text))
    assert codec.markers.opening(codec.encode_chat([ASKED])) is Opening.PREFILLED
    assert shown(text, add_generation_prompt=False) == shown(template, add_generation_prompt=False)
    assert "why" not in shown(text, TALK)
    assert shown(text, TALK) == shown(template, [ASKED, TALK[1] | {"content": "b"}, ASKED]).removesuffix(
        "<think>\n"
    ) + ("<think>\n")


def test_tools_and_the_last_answer_are_kept() -> None:
    """The tools stay where they were; a conversation that ends in an answer shows all of it."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert shown(made(TEMPLATE), tools=tools) == shown(TEMPLATE, tools=tools) + "<think>\n"
    talk = TALK[:2]
    assert "why" in shown(made(TEMPLATE), talk, add_generation_prompt=False)


@pytest.mark.parametrize(
    ("template", "block"), [(TEMPLATE, "<think>\n</think>\n\n"), (QWEN3, "<think>\n\n</think>\n\n")]
)
def test_thinking_can_be_switched_off(template: str, block: str) -> None:
    """`enable_thinking=False` closes the block, by the template's own switch where it has one."""
    assert shown(made(template), enable_thinking=False).endswith(f"assistant\n{block}")


def test_templates_by_name_are_all_changed() -> None:
    """A tokenizer may have several templates."""
    tokenizer = bpe()
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": chatml("<|im_end|>")}
    found = thinking_template(tokenizer, THINK, "base")
    assert set(found) == {"default", "tool_use"}
    assert all(shown(text).endswith("<think>\n") for text in found.values())


def test_a_template_that_can_not_be_extended_is_refused() -> None:
    """A template that reads its own prompt differently once something stands around it: nothing changes in
    silence."""
    odd = "{{ messages | map(attribute='role') | first if ns_ is not defined else 'other' }}" + TEMPLATE
    with pytest.raises(ConfigError, match="by hand"):
        made(odd)
