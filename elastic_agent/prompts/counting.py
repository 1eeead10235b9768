"""How many tokens a prompt has for a model that somebody else hosts, whose chat template we don't have.

    count_prompt("gpt-4o", [{"role": "user", "content": "Hello"}])   # Count(tokens=..., how="bound", why=...)

A hold must never be below what the upstream bills. So a count is exact or an upper bound, never an estimate,
and says which and why. Text is counted with tiktoken where the model's encoding is public and already on
this machine. Else its bytes are the bound: each token of a byte-level BPE, or of a tokenizer that falls
back to bytes, is at least one byte of the text (as it is or after NFKC, whichever is longer). What the
provider puts around the text is known from its documentation at best, so `Framing` takes more than was ever
documented. Tools and calls of tools are rewritten by the provider in a way that is not public: every string
in them is counted, and each value's punctuation is allowed for. Special tokens in a text are text (law 7).

Images, audio, files and the provider's own tools (web search, say) have no bound in the request: that is an
error until `allow` says how many tokens to hold for each (law 8).

Nothing is fetched. tiktoken downloads an encoding when first asked for it: call
`tiktoken.get_encoding("o200k_base")` once, or have it in TIKTOKEN_CACHE_DIR, and counts get tight; until then
they are bounds by bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UncountablePromptError
from ..validation import integer

if TYPE_CHECKING:
    import tiktoken

_OPENAI_PREFIXES = ("openai/", "openai:", "azure/", "azure_openai:")
_FILES = {
    "o200k_base": "o200k_base",
    "o200k_harmony": "o200k_base",
    "cl100k_base": "cl100k_base",
    "p50k_base": "p50k_base",
    "p50k_edit": "p50k_base",
    "r50k_base": "r50k_base",
}
"""tiktoken's encodings and the file that each is made from, under the address below."""
_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_BLANKS = 2000
"""The longest run of blanks that tiktoken gets: longer ones overflow its stack (seen at a million)."""
_CONTENT = ("content", "output")
_PLAIN = (
    *("role", "name", "type", "id", "call_id", "tool_call_id", "tool_calls", "function_call", "arguments"),
    *("refusal", "reasoning", "reasoning_content", "thinking", "status", "annotations", "cache_control"),
)
"""Keys of a message that hold text or JSON and nothing else."""
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "tool_use", "tool_result")
_OUR_TOOLS = ("function", "custom", "json_schema")
_SCHEMAS = ("function", "parameters", "input_schema", "schema")


@dataclass(frozen=True, slots=True)
class Count:
    """The tokens of a prompt.

    Attributes:
        tokens: the number of tokens, or an upper bound of it.
        how: "exact" or "bound".
        why: what the count rests on, for people.
    """

    tokens: int
    how: Literal["exact", "bound"]
    why: str


@dataclass(frozen=True, slots=True)
class Framing:
    """The most tokens that a provider puts around what it is sent.

    Attributes:
        request: once: the start, a default system prompt, what primes the answer.
        message: around each message and each part of its content.
        value: around each key, each list item and each line of a tool, a schema or a call of a tool.
        tools: once, where there are tools.
        tool: around each tool.
    """

    request: int
    message: int
    value: int
    tools: int
    tool: int


OPENAI = Framing(request=16, message=8, value=5, tools=32, tool=32)
"""Documented (OpenAI cookbook, "How to count tokens with tiktoken", an estimate by its own words): 3 or 4 a
message, 1 a name, 3 to prime the answer; 7 to 10 and 12 a tool, 3 a property and 3 a key or value of it.
Reported against it: 1 more a message (openai-cookbook#488)."""
CLAUDE = Framing(request=32, message=16, value=5, tools=1024, tool=32)
"""Documented (Anthropic, "Pricing", tool use): a system prompt of 159 to 530 tokens where there are tools, by
model; 346 for those of 2025 and 2026."""
OTHER = Framing(request=1024, message=32, value=5, tools=1024, tool=32)
"""Not documented: open models come with default system prompts of up to some hundred tokens."""


def count_prompt(
    model: str,
    messages: str | Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    allow: Mapping[str, int] | None = None,
    framing: Framing | None = None,
    encoding: tiktoken.Encoding | None = None,
) -> Count:
    """The prompt tokens that a hosted model will bill, or a bound that they don't exceed.

    Args:
        model: its name ("gpt-4o", "openai/gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro").
        messages: as on the wire (OpenAI's or Anthropic's shape); a str is a prompt for plain completion.
        tools: as on the wire. A schema for the answer (`response_format`) counts like one: pass it here too.
        allow: tokens to hold for each part of a content, or each of the provider's own tools, of a type that
            can't be counted: `{"image_url": 1105, "web_search": 5000}`; its documentation has the figures.
        framing: what the provider adds at most, where the figures above are not right for it.
        encoding: the model's tiktoken encoding, where its name doesn't tell (an Azure deployment).

    Raises:
        UncountablePromptError: a part has no bound and `allow` does not name its type.
        InvalidValueError: `allow` has something else than a whole number of tokens.
    """
    allow = {type: integer(f"allow[{type!r}]", most) for type, most in (allow or {}).items()}
    found, why = (encoding, f"text by {encoding.name}") if encoding else _encoding(model)
    text = _by_bytes if found is None else _with(found)
    if isinstance(messages, str) and not tools and found is not None:
        return Count(text(messages), "exact" if _countable(messages) else "bound", why)
    framing = framing or _framing(model, known=encoding is not None)
    tally = _Tally(text, framing, allow)
    tokens = framing.request
    if isinstance(messages, str):
        tokens += text(messages)
    else:
        tokens += sum(map(tally.message, messages))
    if tools:
        tokens += framing.tools + sum(map(tally.tool, tools))
    return Count(tokens, "bound", f"{why}; around it what the provider adds at most")


class _Tally:
    """Counts the parts of a request, each as an upper bound."""

    def __init__(self, text: Callable[[str], int], framing: Framing, allow: Mapping[str, int]) -> None:
        self._text, self._framing, self._allow = text, framing, allow

    def message(self, message: Mapping[str, Any]) -> int:
        tokens = self._framing.message
        for key, value in _dict(message, "a message").items():
            if key in _CONTENT:
                tokens += self._content(value)
            elif key == "role" and isinstance(value, str):
                tokens += self._text(value)
            elif key in _PLAIN:
                tokens += self._value(key) + self._value(value)
            elif value:
                tokens += self._allowed(key)
        return tokens

    def tool(self, tool: Mapping[str, Any]) -> int:
        kind = _dict(tool, "a tool").get("type")
        if kind not in _OUR_TOOLS and not (kind is None and any(key in tool for key in _SCHEMAS)):
            return self._allowed(str(kind or tool.get("name")))
        return self._framing.tool + self._value(tool)

    def _content(self, content: Any) -> int:
        if content is None:
            return 0
        if isinstance(content, str):
            return self._text(content)
        parts = content if isinstance(content, list | tuple) else [content]
        return sum(self._framing.message + self._part(part) for part in parts)

    def _part(self, part: Any) -> int:
        if isinstance(part, str):
            return self._text(part)
        kind = str(_dict(part, "a part of a content").get("type", next(iter(part), None)))
        if kind not in _TEXT_PARTS:
            return self._allowed(kind)
        inner = {key: value for key, value in part.items() if key != "content"}
        return self._value(inner) + self._content(part.get("content"))

    def _value(self, value: Any) -> int:
        """JSON, however it is spelt."""
        if isinstance(value, str):
            spelt = max(self._text(value), self._text(json.dumps(value)))
            return spelt + self._framing.value * (1 + value.count("\n"))
        if isinstance(value, Mapping):
            return sum(self._value(str(key)) + self._value(inner) for key, inner in value.items())
        if isinstance(value, list | tuple):
            return sum(self._framing.value + self._value(inner) for inner in value)
        if value is None or isinstance(value, bool | int | float):
            return self._framing.value + len(json.dumps(value))
        raise UncountablePromptError(f"{type(value).__name__} is not JSON: give what is on the wire")

    def _allowed(self, kind: str) -> int:
        if kind not in self._allow:
            raise UncountablePromptError(
                f"nothing in the request bounds the tokens of {kind!r}: set allow={{{kind!r}: N}}, N the "
                "most that one can take by the provider's documentation"
            )
        return self._allow[kind] + self._framing.message


def _dict(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise UncountablePromptError(f"{what} must be a dict as on the wire, not {type(value).__name__}")


def _framing(model: str, *, known: bool) -> Framing:
    if "claude" in model.lower():
        return CLAUDE
    # gpt-oss is served by many, who bill its own system message
    return OPENAI if known or _encoding_name(model) not in (None, "o200k_harmony") else OTHER


def _with(encoding: tiktoken.Encoding) -> Callable[[str], int]:
    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text)) if _countable(text) else _by_bytes(text)

    return count


def _countable(text: str) -> bool:
    return all(len(run[0]) <= _BLANKS for run in re.finditer(r"\s+", text))


def _by_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    forms = (text, unicodedata.normalize("NFKC", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _encoding(model: str) -> tuple[tiktoken.Encoding | None, str]:
    """The model's encoding, if it is available without a network; and what a count then rests on."""
    name = _encoding_name(model)
    if name is None:
        return None, f"one token a byte, since tiktoken has no encoding for {model}"
    import tiktoken

    if name in tiktoken.registry.ENCODINGS or _cached(name):
        try:
            return tiktoken.get_encoding(name), f"text by {name}"
        except (
            Exception
        ) as error:  # its file is damaged: tiktoken deletes it, fetches it again, and may fail in any way
            return None, f"one token a byte, since tiktoken could not load {name} ({error})"
    return None, (
        f"one token a byte, since {name} is not on this machine: tiktoken.get_encoding({name!r}) fetches "
        "it once, and TIKTOKEN_CACHE_DIR says where it is kept"
    )


def _encoding_name(model: str) -> str | None:
    from tiktoken.model import encoding_name_for_model

    prefix = next((p for p in _OPENAI_PREFIXES if model.startswith(p)), "")
    try:
        return encoding_name_for_model(model.removeprefix(prefix))
    except KeyError:
        return None


def _cached(name: str) -> bool:
    """Whether tiktoken finds the encoding's file without a network: looked up as `tiktoken.load` does."""
    if name not in _FILES:
        return False
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    key = hashlib.sha1(_ADDRESS.format(_FILES[name]).encode(), usedforsecurity=False).hexdigest()
    return folder != "" and (Path(folder) / key).exists()
