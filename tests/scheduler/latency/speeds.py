"""Speeds that tests start from, and a model that takes its time for prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import takewhile
from typing import Any

from elastic_agent import ScriptedBackend
from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.scheduler import Latency
from elastic_agent.scheduler.latency.prefill import First


def known(ttft: float, tpot: float) -> Latency:
    """A speed learnt earlier."""
    latency = Latency()
    latency.first(First(ttft))
    latency.pace(tpot)
    latency.block(8, 8 * tpot)
    return latency


class Reading(ScriptedBackend):
    """Takes so long for each prompt token that it hasn't seen, and says at a pass's end which it had.

    Other arguments are those of `ScriptedBackend`.
    """

    def __init__(self, reply: Any, *, each: float, **options: Any) -> None:
        super().__init__(reply, context_length=100_000, **options)
        self.each = each
        self.held: list[tuple[int, ...]] = []

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        prompt = request.prompt_ids
        held = max([common(prompt, old) for old in self.held], default=0)
        self.held.append(prompt)
        await asyncio.sleep(self.each * (len(prompt) - held))
        async for chunk in super().stream(request):
            yield chunk if chunk.finish is None else chunk._replace(cached=held)


def common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """The length of their common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
