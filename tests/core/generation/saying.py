"""A scripted model that says `<think>` and `</think>` as the control tokens that they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.prompts.markers import Markers


class Saying(ScriptedBackend):
    """Plays `Reply`s in whose words the two markers are tokens of their own."""

    def _script(self, prompt: tuple[int, ...], extra: Mapping[str, Any]) -> tuple[Reply, list[int]]:
        reply, script = super()._script(prompt, extra)
        return reply, [self._said(token) for token in script]

    def _said(self, token: int) -> int:
        markers: Markers = self.codec.markers
        tokens = {"<think>": markers.open_ids[0], "</think>": markers.close_ids[0]}
        return tokens.get(self.codec.decode([token]).strip(), token)
