"""What recording an agent's calls costs: 64 episodes of 8 calls on a scripted model, with and without."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.budget import Caps
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.training.agents.recorder import Recorder

EPISODES, CALLS, CAP = 64, 8, 800
REPLY = Reply("hm " * 60, "so " * 12)


async def _episodes(*, recorded: bool) -> tuple[float, int, int]:
    """(seconds, tokens at the meter, most tokens of an episode) of all episodes side by side."""
    backend = ScriptedBackend(REPLY, ttft=0.05, tpot=0.002)

    async def episode(number: int) -> int:
        recorder = Recorder(backend, number, Sampling(logprobs=True)) if recorded else None
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(tokens=CAP), observer=recorder) as task:
                for turn in range(CALLS // 2):
                    await asyncio.gather(
                        *(task.generate(f"{turn} {side} ?", solution=16) for side in ("left", "right"))
                    )
            return task.spent.tokens or 0

    began = time.perf_counter()
    spent = await asyncio.gather(*(episode(number) for number in range(EPISODES)))
    return time.perf_counter() - began, backend.meter.output, max(spent)


def recording(turns: int) -> dict[str, Any]:
    """The median of the ratios in turns, and what the meter says of the caps."""
    ratios, most = [], 0
    for _ in range(turns):
        plain, _, _ = asyncio.run(_episodes(recorded=False))
        watched, _, spent = asyncio.run(_episodes(recorded=True))
        ratios.append(watched / plain)
        most = max(most, spent)
    return {
        "episodes": EPISODES,
        "calls": CALLS,
        "overhead": round(statistics.median(ratios) - 1, 4),
        "spread": [round(min(ratios) - 1, 4), round(max(ratios) - 1, 4)],
        "overspend": max(0, most - CAP),
    }
