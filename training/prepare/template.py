"""A chat template that opens thinking in its generation prompt, and leaves out that of earlier answers.

A base's own template is kept as it is; a part is put before it and a part behind it:

1. Before: earlier answers lose what stands up to the end of their thinking, as in Qwen3's template. The last
   message keeps it, so a conversation that ends in an answer shows all of that answer.
2. Behind: the generation prompt goes on with the start marker and a line feed. `enable_thinking=False` closes
   the block at once instead, where the template has no such switch of its own.

What a template does by itself already is not done twice. The result is compared with the base's template on a
few conversations: nothing else may differ. A base without a template gets a plain ChatML one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elastic_agent.errors import ConfigError
from elastic_agent.prompts.chat_template import ChatTemplate
from elastic_agent.prompts.marker_profiles import MarkerText

START, END = "<|im_start|>", "<|im_end|>"
"""The tags of ChatML."""
_CHATML = """\
BOS{% for message in messages %}{{ START + message.role }}
{{ message.content or '' }}{{ END }}
{% endfor %}{% if add_generation_prompt %}{{ START + 'assistant' }}
{% endif %}"""
_HISTORY = (
    "{%- set ns_ = namespace(messages=[]) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'assistant' and not loop.last and m.content is string and CLOSE in m.content -%}"
    "{%- set ns_.messages = ns_.messages + [dict(m, content=m.content.split(CLOSE)[-1].lstrip('\\n'))] -%}"
    "{%- else -%}{%- set ns_.messages = ns_.messages + [m] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = ns_.messages %}\n"  # as a block of its own line: the base's first line stays one
)
_OFF = "enable_thinking is defined and enable_thinking is false"

Message = Mapping[str, Any]
_ASKED: Message = {"role": "user", "content": "zqask"}
_THOUGHT = "zqthought"
_TOOL = {"name": "zqtool", "description": "x", "parameters": {"type": "object", "properties": {}}}


def chatml(end: str, bos: str = "") -> str:
    """A plain ChatML template.

    Args:
        end: the text that ends a turn: `END`, or the model's end of text where it has no such token.
        bos: the text that begins a conversation, if the model wants one.
    """
    text = _CHATML.replace("BOS", f"{{{{ {_quoted(bos)} }}}}" if bos else "").replace("START", _quoted(START))
    return text.replace("{{ END }}", f"{{{{ {_quoted(end)} }}}}")


def thinking_template(tokenizer: Any, pair: MarkerText, base: str) -> Any:
    """The tokenizer's template (or its templates by name) with thinking opened by `pair`.

    Raises:
        ConfigError: something else would differ: the template is of a kind that can't be extended so.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):
        return {name: _opened(tokenizer, text, pair, base) for name, text in own.items()}
    return _opened(tokenizer, own, pair, base)


def _opened(tokenizer: Any, own: str, pair: MarkerText, base: str) -> str:
    text = own
    begin = _begin(tokenizer, own)
    if not begin.rstrip().endswith(pair.open) and not pair.tokens:
        text = text.removesuffix("\n") + _opening(pair, own)
    if not _leaves_out(tokenizer, own, pair):
        text = _HISTORY.replace("CLOSE", _quoted(pair.close)) + text
    _compare(tokenizer, own, text, "" if begin.rstrip().endswith(pair.open) else pair.open + "\n", base)
    return text


def _opening(pair: MarkerText, own: str) -> str:
    """What goes behind a template."""
    opened, closed = _quoted(f"{pair.open}\n"), _quoted(f"{pair.open}\n{pair.close}\n\n")
    off = "''" if "enable_thinking" in own else closed
    return f"{{% if add_generation_prompt %}}{{{{ {off} if {_OFF} else {opened} }}}}{{% endif %}}"


def _begin(tokenizer: Any, template: str) -> str:
    return ChatTemplate(_With(tokenizer, template), {}).turn()[0]


def _leaves_out(tokenizer: Any, template: str, pair: MarkerText) -> bool:
    """Whether a template leaves out the thinking of earlier answers by itself."""
    answer = {"role": "assistant", "content": f"{pair.open}\n{_THOUGHT}\n{pair.close}\n\nzqanswer"}
    shown = _render(tokenizer, template, [_ASKED, answer, _ASKED])
    return shown is not None and _THOUGHT not in shown


def _compare(tokenizer: Any, own: str, text: str, opening: str, base: str) -> None:
    """Refuse a template that says anything else than the base's, but for the opening."""
    for messages, options in _conversations():
        for prompt in (False, True):
            before = _render(tokenizer, own, messages, add_generation_prompt=prompt, **options)
            after = _render(tokenizer, text, messages, add_generation_prompt=prompt, **options)
            if before is not None and after != before + (opening if prompt else ""):
                raise ConfigError(
                    f"the chat template of {base} can't be made to open thinking: with what was put around "
                    f"it, it writes other prompts. Write {opening.strip()!r} at the end of its generation "
                    f"prompt by hand, and start from that folder"
                )


def _conversations() -> Iterator[tuple[Sequence[Message], dict[str, Any]]]:
    """Conversations, with what else a template is given."""
    answer = {"role": "assistant", "content": "zqanswer"}
    system = {"role": "system", "content": "zqsystem"}
    yield [_ASKED], {}
    yield [system, _ASKED, answer, _ASKED], {}
    yield [_ASKED], {"tools": [{"type": "function", "function": _TOOL}]}
    called = {"type": "function", "id": "zq1234567", "function": {"name": "zqtool", "arguments": {"a": 1}}}
    asked = {"role": "assistant", "content": "", "tool_calls": [called]}
    result = {"role": "tool", "name": "zqtool", "tool_call_id": "zq1234567", "content": "zqresult"}
    yield [_ASKED, asked, result], {"tools": [{"type": "function", "function": _TOOL}]}


def _render(tokenizer: Any, template: str, messages: Sequence[Message], **options: Any) -> str | None:
    """A conversation as text; None where the template refuses it."""
    switches = ChatTemplate(_With(tokenizer, template), {}).options
    options = {"add_generation_prompt": False, **switches, **options}
    try:
        shown: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], chat_template=template, tokenize=False, **options
        )
    except Exception:  # a template may refuse any conversation, in any way
        return None
    return shown


class _With:
    """A tokenizer as it would be with another template."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer, self.chat_template = tokenizer, template

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **options)


def _quoted(text: str) -> str:
    """Text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)
