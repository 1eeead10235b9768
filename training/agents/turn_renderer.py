"""The ids between two turns: what the chat template writes after an assistant's turn, up to the next one.

An episode is one growing sequence of ids. What the model sampled stays as it was sampled, thinking included,
and is never decoded and encoded again; only the messages in between are rendered. So the model sees in turn
three exactly the ids that it sampled in turns one and two, and the loss sees them, too.

That is how Qwen3's own template treats a loop of tools (thinking since the last question is kept); a template
that drops old thinking would make what is trained differ from what is sampled. Serve it the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastic_agent.errors import ElasticError
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.tokenizer import HFCodec


class SpliceError(ElasticError, ValueError):
    """A chat template whose turns can't be told apart by an end-of-turn token."""


class Splicer:
    """Renders what stands between turns.

    Attributes:
        markers: the model's, as an agent's calls have them.
        close: tokens of a forced close under this template.

    Args:
        codec: the model's.
        wrap_up: what is written before a forced close (`elastic_agent.generation.wrap_up`).

    Raises:
        SpliceError: the template ends an assistant's turn with no end-of-text token.
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
            raise SpliceError(
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
        raise SpliceError(
            f"the chat template of {self.codec.model} writes an assistant's turn differently when messages "
            f"of role {role!r} follow it"
        )
