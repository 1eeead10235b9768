"""The ids between two turns: what the chat template writes after an assistant's turn, up to the next one.

An episode is one growing sequence of ids. The ids that the model sampled stay as they are, thinking included,
and are never decoded and encoded again; only the messages between turns are rendered. So in turn three the
model reads exactly the ids that it sampled in turns one and two, and the loss reads them too.

Qwen3's own template treats a loop of tools in this way: it keeps the thinking since the last question. A
template that drops old thinking would make the trained sequence differ from the sampled one. Serve a model in
the way in which it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastic_agent.errors import ElasticError
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.tokenizer import HFCodec


class TurnRenderingError(ElasticError, ValueError):
    """A chat template whose turns can't be told apart by an end-of-turn token."""


class TurnRenderer:
    """Renders what stands between turns.

    Attributes:
        markers: the model's, as an agent's calls have them.
        close: tokens of a forced close under this template.

    Args:
        codec: the model's.
        wrap_up: what is written before a forced close (`elastic_agent.generation.wrap_up`).

    Raises:
        TurnRenderingError: the template ends an assistant's turn with no end-of-text token.
    """

    def __init__(self, codec: HFCodec, wrap_up: str | None = None) -> None:
        self.codec = codec
        self.markers = markers_for(codec, tools=True, wrap_up=wrap_up)
        self._before: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "x"},
        ]
        prompt = codec.encode_chat(self._before)
        self._ends = sum(token in codec.markers.eos_ids for token in prompt)
        if not self._ends:
            raise TurnRenderingError(
                f"the chat template of {codec.model} ends an assistant's turn with none of its end-of-text "
                f"tokens, so further turns can't be written behind one"
            )
        self.close = self.markers.close_length(self.markers.opening(prompt))

    def between(self, role: str, texts: Sequence[str]) -> list[int]:
        """The ids of one message a text, with the next generation prompt, behind a turn that has ended."""
        messages = [{"role": role, "content": text} for text in texts]
        ids = self.codec.encode_chat([*self._before, *messages])
        seen = 0
        for at, token in enumerate(ids):
            seen += token in self.codec.markers.eos_ids
            if seen == self._ends:
                return ids[at + 1 :]
        raise TurnRenderingError(
            f"the chat template of {self.codec.model} writes an assistant's turn differently when messages "
            f"of role {role!r} follow it"
        )
