"""Tasks with deadlines on a backend that becomes ten times slower in the middle of the run.

    python benchmarks/deadline.py [--quick] [--json]

Tasks arrive over some minutes. Each is a chain of steps and a final answer under a deadline; its model would
think for longer than that if nobody cut it. From 40% to 60% of the run the backend takes ten times as long
for
everything, so tasks are hit at every stage: before they start, in mid-thought, in an answer, between two
calls. Time is virtual (an event loop whose clock jumps to the next timer), so the run is exact and repeats
bit for bit.

With --json the last line of stdout is one JSON object:
    tasks          tasks that arrived
    answered       of them, with a whole final answer
    late           of them, over after their deadline
    solution_cut   calls whose solution was cut short, by the deadline or by a shrunk budget
    thinking_cut   calls whose thinking was cut by the deadline
    steps_refused  steps for which there was no time left, refused before a token was spent
    calls, slowed  calls served; tasks that met the slow time
    thinking       mean thinking tokens of a call in tasks that did not, and in those that did
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import DeadlineError
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.result import Generation
from elastic_agent.scheduler import BudgetScheduler
from tests.clock import run as run_virtual

TTFT, TPOT = 0.2, 0.01
SLOWER = 10


@dataclass
class Outcome:
    """One task."""

    started: float
    ended: float = 0.0
    final: Generation | None = None
    calls: list[Generation] = field(default_factory=list)
    refused: int = 0


def reply(prompt: str) -> Reply:
    """A model that likes to think, and answers in 3 to 12 tokens."""
    rng = random.Random(prompt)
    return Reply(thinking="hm " * rng.randint(200, 4000), solution="so " * rng.randint(3, 12))


async def arrive(scheduler: BudgetScheduler, index: int, at: float, seconds: float, steps: int) -> Outcome:
    """One task, from its arrival to its end."""
    await asyncio.sleep(at)
    clock = asyncio.get_running_loop().time
    outcome = Outcome(clock())
    expect = {"step": steps, "final": 1}
    async with scheduler.task(
        Caps(seconds=seconds), name=f"task {index}", expect=expect, final_solution=16
    ) as task:
        for step in range(steps):
            try:
                outcome.calls.append(
                    await task.generate(f"task {index} step {step}", kind="step", solution=16)
                )
            except DeadlineError:
                outcome.refused += 1
        outcome.final = await task.generate(f"task {index} final", kind="final", solution=16)
        outcome.calls.append(outcome.final)
    outcome.ended = clock()
    return outcome


async def measure(tasks: int, seconds: float, steps: int, seed: int) -> dict[str, Any]:
    """The whole run."""
    rng = random.Random(seed)
    length = tasks * 1.5  # a task every 1.5 seconds, ten to twenty at once
    backend = ScriptedBackend(reply, ttft=TTFT, tpot=TPOT)
    slow_from, slow_to = 0.4 * length, 0.6 * length

    async def weather() -> None:
        await asyncio.sleep(slow_from)
        backend.ttft, backend.tpot = TTFT * SLOWER, TPOT * SLOWER
        await asyncio.sleep(slow_to - slow_from)
        backend.ttft, backend.tpot = TTFT, TPOT

    async with BudgetScheduler(backend) as scheduler:
        changing = asyncio.create_task(weather())
        outcomes = await asyncio.gather(
            *(arrive(scheduler, i, rng.uniform(0, length), seconds, steps) for i in range(tasks))
        )
        await changing
        scheduler.check()
    calls = [call for outcome in outcomes for call in outcome.calls]
    slowed = [o for o in outcomes if o.started < slow_to and o.ended > slow_from]
    spared = [o for o in outcomes if o not in slowed]

    def thinking(of: list[Outcome]) -> float:
        used = [call.usage.thinking for outcome in of for call in outcome.calls]
        return round(sum(used) / max(1, len(used)), 1)

    whole = (SolutionEnd.EOS, SolutionEnd.STOP)
    return {
        "tasks": tasks,
        "answered": sum(o.final is not None and o.final.solution_end in whole for o in outcomes),
        "late": sum(o.ended - o.started > seconds for o in outcomes),
        "solution_cut": sum(call.solution_end not in whole for call in calls),
        "thinking_cut": sum(call.thinking_end is ThinkingEnd.DEADLINE for call in calls),
        "steps_refused": sum(o.refused for o in outcomes),
        "calls": len(calls),
        "slowed": len(slowed),
        "thinking": {"normal": thinking(spared), "slowed": thinking(slowed)},
        "longest": round(max(o.ended - o.started for o in outcomes), 3),
        "deadline": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, help="default 400")
    parser.add_argument("--seconds", type=float, default=30.0, help="each task's deadline")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="100 tasks; under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    tasks = args.tasks or (100 if args.quick else 400)
    result = run_virtual(measure(tasks, args.seconds, args.steps, args.seed))
    print(
        f"{result['answered']} of {result['tasks']} tasks answered, {result['late']} late (the longest took "
        f"{result['longest']:.2f} of {args.seconds:.0f} s), {result['slowed']} met the slow time.\n"
        f"Of {result['calls']} calls {result['thinking_cut']} had their thinking cut by the deadline and "
        f"{result['solution_cut']} their solution; {result['steps_refused']} steps were refused.\n"
        f"Mean thinking: {result['thinking']['normal']} tokens, {result['thinking']['slowed']} if slowed."
    )
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
