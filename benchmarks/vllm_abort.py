"""Cancelled calls stop a real vLLM server's engine: how far it goes on, by its own counters.

    python benchmarks/vllm_abort.py            200 calls; starts a server (--base-url: uses one)
    python benchmarks/vllm_abort.py --quick    40 calls
    python benchmarks/vllm_abort.py --json     one JSON object as the last line

Each call is cancelled after 1 to 60 tokens, in its thinking or in its solution, by leaving its events or by
cancelling its task. `/metrics` is read at once, and again until nothing runs. `after` tells, by number of
tokens, how many calls the server went on counting so many tokens of between the two; one call runs at a
time, so a token is a step of the engine, and one more than the step that was running is `late`. `unread`
tells the same from what the client had read when it cancelled: tokens on their way are among them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import aclosing
from typing import Any

import aiohttp

from benchmarks._calls import problem
from benchmarks._vllm import backend, counters, idle, parser, served
from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.phases.stop_reasons import SolutionEnd

# A call that ends by itself is not cancelled: long enough that few do
THINKING, SOLUTION = 800, 60


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, help="how many calls (default 200, 40 with --quick)")
    args = options.parse_args()
    calls = args.calls or (40 if args.quick else 200)
    with served(args) as base_url:
        after, unread = asyncio.run(measure(args, base_url, calls))
    result = {
        "cancelled": after.total(),
        "late": sum(n for tokens, n in after.items() if tokens > 1),
        "after": dict(sorted(after.items())),
        "unread": dict(sorted(unread.items())),
    }
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:10} {value}" for key, value in result.items())
    )
    return int(result["late"] != 0)


async def measure(args: Any, base_url: str, calls: int) -> tuple[Counter[int], Counter[int]]:
    """How many calls went on for how many tokens: since the cancel, and since the last one that was read."""
    rng, client = random.Random(args.seed), await backend(args, base_url)
    after: Counter[int] = Counter()
    unread: Counter[int] = Counter()
    async with aiohttp.ClientSession() as session:
        while after.total() < calls:
            before = await idle(base_url, session)
            arrived = await cancelled(client, rng)
            told = await counters(base_url, session)
            last = await idle(base_url, session)
            if arrived is not None:
                after[last.since(told).output] += 1
                unread[last.since(before).output - arrived] += 1
    await client.aclose()
    return after, unread


async def cancelled(client: Backend, rng: random.Random) -> int | None:
    """Tokens that had arrived when a call was cancelled; None for one that was over before."""
    solving = rng.random() < 0.3
    budget = Budget(0, SOLUTION) if solving else Budget(THINKING, 1)
    wanted = rng.randint(1, 8 if solving else 60)
    sampling = Sampling(1.0, 1.0, seed=rng.randrange(2**31))
    call = Call(client, problem(rng), budget, sampling=sampling)

    async def read() -> None:
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if call.usage.metered_output >= wanted:
                    if by_task:
                        await asyncio.sleep(0)  # where the cancel arrives
                        task.cancel()
                        await asyncio.sleep(0)
                    return

    by_task = rng.random() < 0.5
    task = asyncio.create_task(read())
    await asyncio.wait([task])
    usage = call.usage
    left = call.machine.solution_end is SolutionEnd.ABORTED
    return usage.metered_output - usage.unknown if left else None


if __name__ == "__main__":
    sys.exit(main())
