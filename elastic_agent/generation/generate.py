"""One call in one line: `generate` and `stream`.

    result = await generate(backend, [{"role": "user", "content": "..."}], Budget(thinking=256, solution=128))

`call.Call` is what both run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ..backends.base import Backend
from ..budget import Budget
from .call import Call
from .prepare import Prompt
from .result import Event, Generation


async def generate(backend: Backend, prompt: Prompt, budget: Budget, **options: Any) -> Generation:
    """Run one call to its end, `buffered`; the other options are those of `Call`."""
    await backend.ready()
    call = Call(backend, prompt, budget, buffered=True, **options)
    async with aclosing(call.stream()) as events:
        async for _ in events:
            pass
    return call.result()


async def stream(backend: Backend, prompt: Prompt, budget: Budget, **options: Any) -> AsyncGenerator[Event]:
    """Run one call, event by event; options are those of `Call`."""
    await backend.ready()
    async with aclosing(Call(backend, prompt, budget, **options).stream()) as events:
        async for event in events:
            yield event
