"""Calls on a real vLLM server that are abandoned at random moments: what they are charged, beside its meter.

    python benchmarks/vllm_leaving.py            200 calls each way; starts a server (--base-url: uses one)
    python benchmarks/vllm_leaving.py --quick    16 calls each way
    python benchmarks/vllm_leaving.py --json     one JSON object as the last line

Ways: `alone`, one call after the other, in process: streamed and not, its task cancelled, its events closed,
or timed out, in thinking and in the solution. `gateway`: clients of a gateway before this server close their
connections; what the gateway's ledger charged is beside it. `together`: eight calls that are left while
others run, each wave beside the meter as one.

The meter is the server's own `/metrics`, read when nothing runs. Numbers are output tokens charged beyond it,
by call (`together`: by wave, divided by eight); `input_least` the same of input tokens. `far` is how many
calls were charged more than 64 tokens of which nobody knew; `leave_ms` is how long leaving took, median and
most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks._calls import problem
from benchmarks._vllm import Counters, backend, idle, parser, served
from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Upstream

THINKING, SOLUTION = 800, 100
LONGEST = 1.2
"""Seconds after which the last ones leave; many calls would be over soon after."""
WAVE = 8
NEAR = 64
"""Tokens: how near the median has to be."""


@dataclass(frozen=True)
class Charged:
    """What one call was charged.

    Attributes:
        output, input, unknown: tokens; those that may have been served are among the first.
        left: it was abandoned; False: it was over before.
        seconds: that leaving took.
    """

    output: int
    input: int
    unknown: int
    left: bool
    seconds: float = 0.0


Leave = Callable[[], Awaitable[Charged]]


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
        events, requests = list[dict[str, Any]](), list[dict[str, Any]]()
        settings = GatewaySettings([Upstream("model", client)], port=0, no_keys=True, log=events.append)
        async with Gateway(settings, requests.append) as running:
            result["gateway"] = await one_by_one(
                calls, meter, lambda: left_at_gateway(running, events, requests, session, rng)
            )
        result["together"] = await in_waves(math.ceil(calls / WAVE), meter, client, rng)
    await client.aclose()
    return result


async def one_by_one(calls: int, meter: Callable[[], Awaitable[Counters]], leave: Leave) -> dict[str, Any]:
    """Calls one after the other, each beside the meter."""
    output, input, found = list[float](), list[float](), list[Charged]()
    while len(output) < calls:
        before = await meter()
        charged = await leave()
        counted = (await meter()).since(before)
        if charged.left:
            found.append(charged)
            output.append(charged.output - counted.output)
            input.append(charged.input - counted.prompt)
    return told(output, input, found)


async def in_waves(
    waves: int, meter: Callable[[], Awaitable[Counters]], client: Backend, rng: random.Random
) -> dict[str, Any]:
    """Calls side by side, each wave beside the meter; those that were over before are among them."""
    output, input, found = list[float](), list[float](), list[Charged]()
    for _ in range(waves):
        before = await meter()
        charged = await asyncio.gather(*(left(client, rng) for _ in range(WAVE)))
        counted = (await meter()).since(before)
        output.append((sum(one.output for one in charged) - counted.output) / WAVE)
        input.append((sum(one.input for one in charged) - counted.prompt) / WAVE)
        found += [one for one in charged if one.left]
    return told(output, input, found)


def told(output: list[float], input: list[float], left: list[Charged]) -> dict[str, Any]:
    """The figures."""
    ordered, seconds = sorted(output), sorted(one.seconds for one in left)
    return {
        "calls": len(left),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)],
        "least": ordered[0],
        "most": ordered[-1],
        "exact": sum(one == 0 for one in ordered),
        "input_least": min(input),
        "far": sum(one.unknown > NEAR for one in left),
        "leave_ms": [round(1000 * each) for each in (statistics.median(seconds), seconds[-1])],
    }


async def left(client: Backend, rng: random.Random) -> Charged:
    """One call in process, left in one of the ways in which calls are left."""
    budget = Budget(THINKING, SOLUTION) if rng.random() < 0.8 else Budget(0, SOLUTION)
    sampling, streamed = Sampling(1.0, 1.0, seed=rng.randrange(2**31)), rng.random() < 0.5
    call = Call(client, problem(rng), budget, sampling=sampling, buffered=not streamed)
    way, moment = rng.choice(("cancelled", "closed", "timed out")), rng.uniform(0.0, LONGEST)
    loop = asyncio.get_running_loop()
    until = loop.time() + moment

    async def read() -> None:
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if way == "closed" and loop.time() >= until:
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
    usage, over = call.usage, call.machine.solution_end != SolutionEnd.ABORTED
    return Charged(
        usage.metered_output, usage.metered_input, usage.unknown, not over, max(0.0, loop.time() - until)
    )


async def left_at_gateway(
    running: Gateway,
    events: list[dict[str, Any]],
    requests: list[dict[str, Any]],
    session: aiohttp.ClientSession,
    rng: random.Random,
) -> Charged:
    """A client of the gateway that closes its connection."""
    body = {
        "messages": [{"role": "user", "content": problem(rng)}],
        "thinking_budget": THINKING,
        "solution_budget": SOLUTION,
        "stream": rng.random() < 0.5,
        "temperature": 1.0,
        "seed": rng.randrange(2**31),
    }
    done, seen, loop = len(requests), len(events), asyncio.get_running_loop()
    until = loop.time() + rng.uniform(0.05, LONGEST)
    with suppress(TimeoutError):
        async with (
            asyncio.timeout_at(until),
            session.post(f"{running.url}/chat/completions", json=body) as response,
        ):
            async for _ in response.content.iter_any():
                pass
    async with asyncio.timeout(30.0):
        while len(requests) == done:  # noqa: ASYNC110 (a line of the access log)
            await asyncio.sleep(0.005)
    settled = [event for event in events[seen:] if event["event"] == "settled"]
    used = settled[0]["used"] if settled else {}
    sampled = ("thinking", "close", "solution", "discarded", "unknown", "written")
    output = sum(used.get(name, 0) for name in sampled) - used.get("forced", 0)
    over = used.get("solution_end", SolutionEnd.ABORTED) != SolutionEnd.ABORTED
    seconds = max(0.0, loop.time() - until)
    return Charged(output, used.get("input", 0), used.get("unknown", 0), not over, seconds)


if __name__ == "__main__":
    sys.exit(main())
