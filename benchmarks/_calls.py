"""Calls for the benchmarks of exactness: word problems as e1-tiny knows them, under budgets of all sizes."""

from __future__ import annotations

import asyncio
import random

from elastic_agent.backends.base import GREEDY, Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation

NOUNS = ("apples", "coins", "books", "eggs")


def problem(rng: random.Random) -> str:
    """A problem of up to seven steps; long enough, more often than not, to think for a while."""
    noun, steps = rng.choice(NOUNS), []
    for label in range(1, rng.randint(2, 8)):
        steps.append(f"#{label} It {rng.choice(('sells', 'gets'))} {rng.randint(1, 30)} .")
    return f"A shop has {rng.randint(20, 90)} {noun} . {' '.join(steps)} How many {noun} are left ?"


def job(rng: random.Random) -> tuple[str, Budget, Sampling, bool]:
    """(prompt, budget, sampling, streamed): budgets that cut, and budgets that don't."""
    prompt = problem(rng)
    budget = Budget(rng.randint(0, 200), rng.randint(1, 60))
    sampling = GREEDY if rng.random() < 0.5 else Sampling(0.6, 0.95, seed=rng.randrange(2**31))
    return prompt, budget, sampling, rng.random() < 0.5


async def run(
    backend: Backend,
    lanes: asyncio.Semaphore,
    prompt: str,
    budget: Budget,
    sampling: Sampling,
    streamed: bool,
) -> Generation:
    """One call, when a lane is free; a streamed one's ids are those of its events."""
    async with lanes:
        if not streamed:
            return await generate(backend, prompt, budget, sampling=sampling)
        call = Call(backend, prompt, budget, sampling=sampling)
        ids = [i async for event in call for i in event.ids]
        assert tuple(ids) == call.result().output_ids, "the events differ from the result"
        return call.result()
