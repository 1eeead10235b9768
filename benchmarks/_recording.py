"""What recording an agent's calls costs: 64 episodes of 8 calls side by side on a scripted model."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.budget import Caps
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.training.agents.recorder import Recorder

EPISODES, CALLS, CAP = 64, 8, 800
REPLY = Reply("hm " * 60, "so " * 12)


class TimedRecorder(Recorder):
    """A recorder that measures itself.

    Attributes:
        seconds: spent in its methods so far, by all of this class.
    """

    seconds = 0.0

    def sampling(self, call: TaskCall, sampling: Sampling) -> Sampling:
        began = time.perf_counter()
        found = super().sampling(call, sampling)
        TimedRecorder.seconds += time.perf_counter() - began
        return found

    def settled(self, call: TaskCall) -> None:
        began = time.perf_counter()
        super().settled(call)
        TimedRecorder.seconds += time.perf_counter() - began


async def _episodes() -> tuple[float, int]:
    """(seconds of all calls, most tokens of an episode) of all episodes side by side."""
    backend = ScriptedBackend(REPLY, ttft=0.05, tpot=0.002)

    async def episode(number: int) -> tuple[float, int]:
        recorder = TimedRecorder(backend, number, Sampling(logprobs=True))
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(tokens=CAP), observer=recorder) as task:
                for turn in range(CALLS // 2):
                    await asyncio.gather(
                        *(task.generate(f"{turn} {side} ?", solution=16) for side in ("left", "right"))
                    )
            return sum(call.seconds for call in task.report().calls), task.spent.tokens or 0

    found = await asyncio.gather(*(episode(number) for number in range(EPISODES)))
    assert sum(tokens for _, tokens in found) >= backend.meter.output
    return sum(seconds for seconds, _ in found), max(tokens for _, tokens in found)


def recording(turns: int) -> dict[str, Any]:
    """Seconds in the recorder by the calls' seconds, the median of turns; and the most above a cap."""
    shares, most = [], 0
    for _ in range(turns):
        TimedRecorder.seconds = 0.0
        calls, spent = asyncio.run(_episodes())
        shares.append(TimedRecorder.seconds / calls)
        most = max(most, spent)
    return {
        "episodes": EPISODES,
        "calls": CALLS,
        "overhead": round(statistics.median(shares), 6),
        "spread": [round(min(shares), 6), round(max(shares), 6)],
        "overspend": max(0, most - CAP),
    }
