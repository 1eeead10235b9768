"""What the benchmarks of agents on a vLLM server share: plain `ChatOpenAI`, and the score of a way."""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks._vllm import idle
from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Caps
from elastic_agent.scheduler import Price
from elastic_agent.usage import Usage

SAMPLING = Sampling(temperature=0.6, top_p=0.95)


class Plain:
    """`ChatOpenAI` with a `max_tokens`, as a chat model that is told no more than a prompt and a seed.

    Args:
        options: further ones of `ChatOpenAI`.
    """

    def __init__(
        self, args: argparse.Namespace, base_url: str, max_tokens: int, seed: int, **options: Any
    ) -> None:
        self.llm = ChatOpenAI(
            model=args.model,
            base_url=base_url,
            api_key=SecretStr("none"),
            max_completion_tokens=max_tokens,
            temperature=SAMPLING.temperature,
            top_p=SAMPLING.top_p,
            **options,
        )
        self.seed = seed

    async def ainvoke(self, text: str, **_: Any) -> AIMessage:
        """`_`: what only ours understands."""
        self.seed += 1
        return await self.llm.ainvoke(text, seed=self.seed)


class Score:
    """What one way got right, and whether it kept its caps."""

    def __init__(self) -> None:
        self.right: list[int] = []
        self.tokens: list[int] = []
        self.violations = 0

    async def run(
        self, metered: Callable[[], Awaitable[Usage]], caps: Caps, price: Price, work: Awaitable[int]
    ) -> None:
        """Do it and count, by the server's own counters."""
        clock, before = asyncio.get_running_loop().time, await metered()
        start = clock()
        self.right.append(await work)
        seconds, after = clock() - start, await metered()
        used = Usage(input=after.input - before.input, solution=after.solution - before.solution)
        self.tokens.append(used.solution)
        self.violations += any(
            (
                caps.tokens is not None and used.solution > caps.tokens,
                caps.nanodollars is not None and price.charge(used) > caps.nanodollars,
                caps.seconds is not None and seconds > caps.seconds,
            )
        )

    def told(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "mean": round(statistics.mean(self.right), 2),
            "tokens": self.tokens,
            "violations": self.violations,
        }


async def metered(base_url: str, session: aiohttp.ClientSession) -> Usage:
    """What the idle server has read and written since its start, by its own counters."""
    now = await idle(base_url, session)
    return Usage(input=now.prompt, solution=now.output)
