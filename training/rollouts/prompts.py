"""Prompts as ids: a model is trained on the prompts, markers and ends of text that it is served with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.tokenizer import HFCodec

Prompt = Sequence[dict[str, str]]


@lru_cache(maxsize=8)
def codec_of(tokenizer: Any, markers: MarkerText | None = None) -> HFCodec:
    """The codec of live calls for a Hugging Face tokenizer; `markers` where the tokenizer doesn't tell."""
    return HFCodec(tokenizer, model=tokenizer.name_or_path or "this model", markers=markers)


def prompt_ids_of(tokenizer: Any, messages: Prompt, markers: MarkerText | None = None) -> list[int]:
    """A conversation as ids, generation prompt included. Control strings in it stay text; the thinking of
    earlier answers is left out, as chat templates do."""
    codec = codec_of(tokenizer, markers)
    return codec.encode_chat([_answer_only(message, codec.markers.close_text) for message in messages])


def _answer_only(message: Mapping[str, Any], close: str) -> Mapping[str, Any]:
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str) or close not in content:
        return message
    return {**message, "content": content.rpartition(close)[2].lstrip()}
