"""An assistant's earlier thinking, in the many ways that software hands it back.

    a text                                    `reasoning` or `reasoning_content`: vLLM, SGLang, our gateway
    {"type": "thinking", "thinking": ...}     Anthropic, Gemini; Mistral has a list of texts in it
    {"type": "reasoning", "reasoning": ...}   LangChain's own blocks
    {"type": "reasoning", "summary": [...], "content": [...]}          an item of OpenAI's Responses
    {"type": "reasoning_content", "reasoning_content": {"text": ...}}  Bedrock
    [{"type": "reasoning.text", "text": ...}, ...]                     `reasoning_details` of OpenRouter

What is encrypted or redacted has no text here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KINDS = ("reasoning", "thinking", "reasoning_content", "redacted_thinking")
"""Types of content blocks that are thinking."""
NAMES = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Names beside a message's content, in the order in which they are believed: several say the same."""
_TEXTS = ("content", "summary", "reasoning", "thinking", "reasoning_content", "text")


def reasoning_text(value: object) -> str:
    """The text of a block, an item, or what stands under one of `NAMES`; empty when it has none."""
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
    """An assistant's thinking: of its content blocks, else of what stands beside the content."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        blocks = [b for b in content if isinstance(b, Mapping) and b.get("type") in KINDS]
        if text := "".join(reasoning_text(block) for block in blocks):
            return text
    return next((text for name in NAMES if (text := reasoning_text(beside.get(name)))), "")
