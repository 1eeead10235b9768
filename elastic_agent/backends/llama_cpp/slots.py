"""How far an abandoned generation had come, by the server's `/slots`.

A slot keeps the parameters and the length of its last generation until the next one. A generation is known
there by its seed, which nobody else has. The length is that of the prompt and of all sampled tokens but the
last, which no other token has followed.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import aiohttp

SECONDS, SECONDS_IN_CALL, PAUSE = 1.0, 0.2, 0.02
"""How long a generation is looked for; the same while its call waits to go on; between two looks."""


class Sought(NamedTuple):
    """A generation: its seed, the tokens that it asked for, and those of its prompt."""

    seed: int
    asked: int
    prompt: int


async def tokens_sampled(
    session: aiohttp.ClientSession, url: str, sought: Sought, *, in_call: bool
) -> int | None:
    """How many tokens a generation sampled before its slot was freed; None: nobody can say.

    Args:
        url: of the server.
        in_call: the call waits to go on.
    """
    try:
        async with asyncio.timeout(SECONDS_IN_CALL if in_call else SECONDS):
            while True:
                async with session.get(f"{url}/slots") as response:
                    if response.status >= 400:  # started with --no-slots
                        return None
                    slots = await response.json(content_type=None)
                mine = [slot for slot in slots if _is(slot, sought)]
                if len(mine) == 1 and not mine[0]["is_processing"]:
                    return max(0, int(mine[0]["n_prompt_tokens"]) - sought.prompt + 1)
                await asyncio.sleep(PAUSE)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, KeyError, RuntimeError):
        return None


def _is(slot: dict[str, Any], sought: Sought) -> bool:
    """Whether a slot has run, or runs, this generation."""
    params = slot.get("params") or {}
    return bool(params.get("seed") == sought.seed and params.get("n_predict") == sought.asked)
