"""The benchmark on e1-tiny itself: the same kinds of tasks, run by a `BudgetScheduler`, nothing replayed."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import Any

from benchmarks._replay import TINY, Work, make_work
from elastic_agent import Caps, load_backend
from elastic_agent.backends.base import Sampling
from elastic_agent.errors import ElasticError
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Marginal, Uniform
from elastic_agent.scheduler.policies.protocol import AllocationPolicy
from elastic_agent.training.data.word_problems import DIFFICULTIES, WordProblem, make_problems
from elastic_agent.training.evaluation import bootstrap
from elastic_agent.training.rewards.word_problems import solution_reward

SEED = 7300  # problems that the replay has not
POLICIES: dict[str, AllocationPolicy] = {"uniform": Uniform(), "fixed": FixedCap(96), "default": Marginal()}
CAPS = (57.0, 80.0, 113.0)


async def agent(
    scheduler: BudgetScheduler, work: Work[WordProblem], cap: int, seed: int
) -> tuple[list[bool], int]:
    """One task; returns which calls were right, and what it spent."""
    calls, right = work.calls, [False] * len(work.calls)
    done = [asyncio.Event() for _ in calls]
    async with scheduler.task(Caps(tokens=cap), expect=Counter(call.kind for call in calls)) as task:

        async def call(i: int) -> None:
            for before in work.after[i]:
                await done[before].wait()
            try:
                said = await task.generate(
                    calls[i].text,
                    kind=calls[i].kind,
                    solution=TINY.solution,
                    final=i == len(calls) - 1,
                    sampling=Sampling(seed=seed * 100 + i),
                )
                right[i] = solution_reward(said.solution, said.solution_end == "eos", calls[i].answer) > 0
            except ElasticError:
                pass  # refused: it has no answer, and the others go on
            finally:
                done[i].set()

        await asyncio.gather(*(call(i) for i in range(len(calls))))
        spent = task.report().spent.tokens
    return right, spent or 0


async def _run(tasks: int) -> dict[str, Any]:
    backend = load_backend("e1-tiny")
    pool = {f"steps-{n}": make_problems(SEED, 60, split="test", steps=n) for n in DIFFICULTIES}
    every = make_work(pool, tasks, seed=5)
    curves: dict[str, list[list[float]]] = {}
    violations = 0
    for name, policy in POLICIES.items():
        curves[name] = []
        for each in CAPS:
            caps = [round(each * len(work.calls)) for work in every]
            async with BudgetScheduler(backend, policy=policy) as scheduler:
                work = enumerate(zip(every, caps, strict=True))
                found = await asyncio.gather(*(agent(scheduler, one, cap, i) for i, (one, cap) in work))
                scheduler.check()
            whole = [float(all(right)) for right, _ in found]
            share = statistics.fmean(statistics.fmean(right) for right, _ in found)
            violations += sum(spent > cap for cap, (_, spent) in zip(caps, found, strict=True))
            curves[name].append([each, round(statistics.fmean(whole), 4), *bootstrap(whole), round(share, 4)])
            print(
                f"{name} at {each:.0f} a call: {statistics.fmean(whole):.3f} whole, {share:.3f} right",
                flush=True,
            )
    await backend.aclose()
    return {
        "auc": {name: round(statistics.fmean(row[1] for row in rows), 4) for name, rows in curves.items()},
        "violations": violations,
        "tasks": len(POLICIES) * len(CAPS) * tasks,
        "curves": curves,
    }


def live(tasks: int) -> dict[str, Any]:
    """Every policy at every cap."""
    return asyncio.run(_run(tasks))
