"""An assistant's earlier thinking, in each form in which software hands it back.

    a text                                    `reasoning` or `reasoning_content`: vLLM, SGLang, our gateway
    {"type": "thinking", "thinking": ...}     Anthropic, Gemini; Mistral has a list of texts in it
    {"type": "reasoning", "reasoning": ...}   LangChain's own blocks
    {"type": "reasoning", "summary": [...], "content": [...]}          an item of OpenAI's Responses
    {"type": "reasoning_content", "reasoning_content": {"text": ...}}  Bedrock
    [{"type": "reasoning.text", "text": ...}, ...]                     `reasoning_details` of OpenRouter

Encrypted or redacted thinking has no text and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

REASONING_TYPES = ("reasoning", "thinking", "reasoning_content", "redacted_thinking")
"""Types of content blocks that are thinking."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Fields beside a message's content. Several may hold the same thinking: the first in this order counts."""
_TEXTS = ("content", "summary", "reasoning", "thinking", "reasoning_content", "text")


def reasoning_text(value: object) -> str:
    """The thinking in a block, an item or one of `REASONING_FIELDS`; "" when there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((text for name in _TEXTS if (text := reasoning_text(value.get(name)))), "")
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        parts = [text for part in value if (text := reasoning_text(part))]
        summaries = all(isinstance(part, Mapping) and part.get("type") == "summary_text" for part in value)
        return ("\n\n" if summaries else "").join(parts)
    return ""


def reasoning_of(content: object, beside: Mapping[str, object]) -> str:
    """An assistant's thinking: from its content blocks, else from the fields beside the content."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        blocks = [b for b in content if isinstance(b, Mapping) and b.get("type") in REASONING_TYPES]
        if text := "".join(reasoning_text(block) for block in blocks):
            return text
    return next((text for name in REASONING_FIELDS if (text := reasoning_text(beside.get(name)))), "")
