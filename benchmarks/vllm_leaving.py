"""Calls on a real vLLM server that are abandoned at random moments: what they are charged, beside its meter.

    python benchmarks/vllm_leaving.py            200 calls each way; starts a server (--base-url: uses one)
    python benchmarks/vllm_leaving.py --quick    16 calls each way
    python benchmarks/vllm_leaving.py --json     one JSON object as the last line

Ways: `alone`, one call after the other, in process: streamed and not, its task cancelled, its events closed,
or timed out, in thinking and in the solution. `gateway`: clients of a gateway before this server close their
connections; what the gateway's ledger charged is beside it. `together`: eight calls that are left while
others run, each wave beside the meter as one.

The meter is the server's own `/metrics`, read when nothing runs. Numbers are output tokens charged beyond it,
by call (`together`: by wave, divided by eight); `input_least` the same of input tokens. `whole` is how many
calls were charged all that their pass might have brought.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import aiohttp

from benchmarks._calls import problem
from benchmarks._vllm import Counters, backend, idle, parser, served
from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generate import Call
from elastic_agent.integrations.gateway.config import Config, Limits, Upstream
from elastic_agent.integrations.gateway.server import Gateway

THINKING, SOLUTION = 800, 100
LONGEST = 2.0
"""Seconds after which the last ones leave; on two cores a whole call takes about three."""
WAVE = 8
NEAR = 64
"""Tokens: how near the median has to be."""

Leave = Callable[[], Awaitable[tuple[int, int, int] | None]]
"""Run a call and leave it: (output, input, unknown tokens) that it was charged; None: it was over before."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, help="how many calls each way (default 200, 16 with --quick)")
    args = options.parse_args()
    calls = args.calls or (16 if args.quick else 200)
    with served(args) as base_url:
        result = asyncio.run(measure(args, base_url, calls))
    print(json.dumps(result) if args.json else "\n".join(f"{way:9} {told}" for way, told in result.items()))
    good = all(told["least"] >= 0 and told["input_least"] >= 0 for told in result.values())
    return int(not good or result["alone"]["median"] > NEAR or result["gateway"]["median"] > NEAR)


async def measure(args: argparse.Namespace, base_url: str, calls: int) -> dict[str, dict[str, Any]]:
    """What the abandoned calls of each way were charged beyond the meter."""
    rng, client = random.Random(args.seed), await backend(args, base_url)
    result = {}
    async with aiohttp.ClientSession() as session:

        async def meter() -> Counters:
            return await idle(base_url, session)

        result["alone"] = await one_by_one(calls, meter, lambda: left(client, rng))
        async with gateway(client) as (url, events):
            result["gateway"] = await one_by_one(
                calls, meter, lambda: left_at_gateway(url, events, session, rng)
            )
        result["together"] = await in_waves(math.ceil(calls / WAVE), meter, client, rng)
    await client.aclose()
    return result


async def one_by_one(calls: int, meter: Callable[[], Awaitable[Counters]], leave: Leave) -> dict[str, Any]:
    """Calls one after the other, each beside the meter."""
    output, input, whole = list[int](), list[int](), 0
    while len(output) < calls:
        before = await meter()
        charged = await leave()
        counted = (await meter()).since(before)
        if charged is not None:
            output.append(charged[0] - counted.output)
            input.append(charged[1] - counted.prompt)
            whole += charged[2] >= SOLUTION // 2
    return told(output, input) | {"whole": whole}


async def in_waves(
    waves: int, meter: Callable[[], Awaitable[Counters]], client: Backend, rng: random.Random
) -> dict[str, Any]:
    """Calls side by side, each wave beside the meter."""
    output, input, whole = list[float](), list[float](), 0
    for _ in range(waves):
        before = await meter()
        charged = await asyncio.gather(*(left(client, rng) for _ in range(WAVE)))
        counted = (await meter()).since(before)
        sums = [sum(one[i] for one in charged if one is not None) for i in range(3)]
        finished = [one for one in charged if one is None]
        if finished:  # its usage isn't among the sums
            continue
        output.append((sums[0] - counted.output) / WAVE)
        input.append((sums[1] - counted.prompt) / WAVE)
        whole += sum(one[2] >= SOLUTION // 2 for one in charged if one is not None)
    return told(output, input) | {"whole": whole}


def told(output: list[Any], input: list[Any]) -> dict[str, Any]:
    """The figures."""
    ordered = sorted(output)
    return {
        "calls": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)],
        "least": ordered[0],
        "most": ordered[-1],
        "exact": sum(one == 0 for one in ordered),
        "input_least": min(input),
    }


async def left(client: Backend, rng: random.Random) -> tuple[int, int, int] | None:
    """One call in process, left in one of the ways in which calls are left."""
    budget = Budget(THINKING, SOLUTION) if rng.random() < 0.8 else Budget(0, SOLUTION)
    sampling, streamed = Sampling(1.0, 1.0, seed=rng.randrange(2**31)), rng.random() < 0.5
    call = Call(client, problem(rng), budget, sampling=sampling, whole=not streamed)
    way, moment = rng.choice(("cancelled", "closed", "timed out")), rng.uniform(0.0, LONGEST)
    until = asyncio.get_running_loop().time() + moment

    async def read() -> None:
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if way == "closed" and asyncio.get_running_loop().time() >= until:
                    return

    task = asyncio.ensure_future(read())
    if way == "cancelled":
        await asyncio.wait([task], timeout=moment)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    elif way == "timed out":
        with suppress(TimeoutError):
            await asyncio.wait_for(task, moment)
    else:
        await task
    usage = call.usage
    if call.machine.solution_end != "aborted":
        return None
    return usage.metered_output, usage.metered_input, usage.unknown


@asynccontextmanager
async def gateway(client: Backend) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A gateway before the server: (its URL, what its scheduler logs)."""
    events: list[dict[str, Any]] = []
    config = Config(
        [Upstream("model", client)], port=0, no_keys=True, log=events.append, limits=Limits(grace_seconds=2.0)
    )
    async with Gateway(config) as running:
        yield running.url, events


async def left_at_gateway(
    url: str, events: list[dict[str, Any]], session: aiohttp.ClientSession, rng: random.Random
) -> tuple[int, int, int] | None:
    """A client of the gateway that closes its connection."""
    body = {
        "messages": [{"role": "user", "content": problem(rng)}],
        "thinking_budget": THINKING,
        "solution_budget": SOLUTION,
        "stream": rng.random() < 0.5,
        "temperature": 1.0,
        "seed": rng.randrange(2**31),
    }
    seen = len(events)
    try:
        async with asyncio.timeout(rng.uniform(0.05, LONGEST)):
            async with session.post(f"{url}/chat/completions", json=body) as response:
                async for _ in response.content.iter_any():
                    pass
    except TimeoutError:
        pass
    settled: list[dict[str, Any]] = []
    async with asyncio.timeout(30.0):
        while not settled:
            await asyncio.sleep(0.01)
            settled = [event for event in events[seen:] if event["event"] == "settled"]
    used = settled[0]["used"]
    if used.get("solution_end") != "aborted":
        return None
    sampled = ("thinking", "close", "solution", "discarded", "unknown")
    output = sum(used[name] for name in sampled) - used["forced"] + used["written"]
    return output, used["input"], used["unknown"]


if __name__ == "__main__":
    sys.exit(main())
