"""A model's chat template: a conversation as text, its options, and what begins and ends an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

from ..errors import UnsupportedError
from .conversation_texts import ROLES

_ARGUMENTS = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "processor_kwargs",
        "self",
    ]
)
"""Arguments of `apply_chat_template` that are no option of a template."""
_PLACEHOLDER = "zqxjzqxj"
"""Stands for a message where a template's turns are looked at."""


class ChatTemplate:
    """The template of one tokenizer.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        options: variables for the template. A template that asks for `enable_thinking` or `thinking` gets
            True unless they are given.

    Attributes:
        options: all variables that a conversation is rendered with.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.options: Mapping[str, Any] = {**_thinking_switches(self.text), **options}

    @property
    def text(self) -> str | None:
        """The template; None where the model has none."""
        template = getattr(self._tokenizer, "chat_template", None)
        return cast("str | None", template.get("default") if isinstance(template, dict) else template)

    @cached_property
    def roles(self) -> frozenset[str]:
        """Roles by which the template tells messages apart."""
        return ROLES | set(re.findall(r"['\"]([a-z_]{2,20})['\"]", self.text or ""))

    def check_option(self, name: str) -> None:
        """Refuse a name that is no variable of a template.

        Raises:
            UnsupportedError: the name is an argument of `apply_chat_template`, or no identifier.
        """
        if name in _ARGUMENTS or not name.isidentifier():
            raise UnsupportedError(f"{name[:40]!r} is no variable of a chat template: leave it out")

    def render(self, messages: Sequence[Any], tools: Sequence[Any], options: Mapping[str, Any]) -> str:
        """A conversation as text, generation prompt included.

        Args:
            options: variables of the template for this prompt, over the template's own.
        """
        text = self._tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=True,
            **{**self.options, **options},
        )
        return cast("str", text)

    def turn(self) -> tuple[str, str]:
        """(begin, end): what the template writes before and after an answer; "" where this can't be seen."""
        if self.text is None:
            return "", ""
        asked: list[dict[str, str]] = [{"role": "user", "content": _PLACEHOLDER}]
        answered = [*asked, {"role": "assistant", "content": _PLACEHOLDER}]
        render = partial(self._tokenizer.apply_chat_template, tokenize=False, **self.options)
        try:
            before, after = render(asked), render(asked, add_generation_prompt=True)
            ended = render(answered)
        except Exception:  # a template may refuse any conversation, in any way
            return "", ""
        begin = after[len(before) :] if after.startswith(before) else after.rpartition(_PLACEHOLDER)[2]
        return begin, ended.rpartition(_PLACEHOLDER)[2]


def _thinking_switches(template: str | None) -> dict[str, bool]:
    """The template's variables that switch thinking on, each set to True."""
    names = ("enable_thinking", "thinking")
    if template is None or not any(name in template for name in names):
        return {}
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        # The tags that transformers adds to Jinja's own
        source = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
        )
    except TemplateSyntaxError:
        return {}
    return dict.fromkeys(meta.find_undeclared_variables(source) & set(names), True)
