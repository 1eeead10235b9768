"""Law 3 at a real vLLM server: random calls against their budgets, their usage against its counters.

    python benchmarks/vllm_exactness.py            1,000 calls, 64 at once; own server, or --base-url
    python benchmarks/vllm_exactness.py --quick    200 calls
    python benchmarks/vllm_exactness.py --native   one pass a call, whose limits the engine holds; unseeded
    python benchmarks/vllm_exactness.py --json     one JSON object as the last line

Each call has t from 0 to 200 thinking and s from 1 to 60 solution tokens; half are greedy, half are streamed
(what counts is what the events carried). A usage mismatch is a call whose usage is not the ids that it
brought, or a wave of calls whose input and output tokens, summed, are not what `/metrics` counted up by. The
exit status is 1 when there is one, when a call spent too much, or when one kind of close never came.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import aiohttp

from benchmarks._calls import job, run
from benchmarks._vllm import backend, idle, parser, served
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.generation.result import Generation

WAVE = 200
ONE_PASS = "one pass"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, help="how many calls (default 1000, 200 with --quick)")
    options.add_argument("--concurrency", type=int, default=64, help="how many at once (default 64)")
    args = options.parse_args()
    calls = args.calls or (200 if args.quick else 1000)
    with served(args) as base_url:
        result, ends = asyncio.run(measure(args, base_url, calls))
    one = ends.pop(ONE_PASS)
    print(
        "thinking ended:", ", ".join(f"{end} {n}" for end, n in sorted(ends.items())) + f"; one pass: {one}"
    )
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:18} {value}" for key, value in result.items()))
    both = ends[ThinkingEnd.NATURAL] and ends[ThinkingEnd.BUDGET]
    return int(not both or any(value for key, value in result.items() if key != "calls"))


async def measure(args: Any, base_url: str, calls: int) -> tuple[dict[str, int], Counter[str]]:
    """The counts, and how often thinking ended in which way, and in one pass with the solution."""
    rng, client = random.Random(args.seed), await backend(args, base_url)
    result = {"calls": 0, "over_thinking": 0, "over_solution": 0, "usage_mismatches": 0}
    ends: Counter[str] = Counter()
    lanes = asyncio.Semaphore(args.concurrency)
    async with aiohttp.ClientSession() as session:
        while result["calls"] < calls:
            wave = [job(rng) for _ in range(min(WAVE, calls - result["calls"]))]
            if args.native:  # a seed takes two passes
                wave = [(asked, budget, replace(how, seed=None), s) for asked, budget, how, s in wave]
            before = await idle(base_url, session)
            done = await asyncio.gather(*(run(client, lanes, *one) for one in wave))
            counted = (await idle(base_url, session)).since(before)
            for (_, budget, _, _), generation in zip(wave, done, strict=True):
                ends[generation.thinking_end or ThinkingEnd.ABORTED] += 1
                ends[ONE_PASS] += not generation.two_passes
                result["over_thinking"] += len(generation.thinking_ids) > (budget.thinking or 0)
                result["over_solution"] += len(generation.solution_ids) > budget.solution
                result["usage_mismatches"] += not adds_up(generation)
            result["calls"] += len(wave)
            for name, ours, theirs in (
                ("input", sum(g.usage.metered_input for g in done), counted.prompt),
                ("output", sum(g.usage.metered_output for g in done), counted.output),
            ):
                if ours != theirs:
                    print(f"{name}: our usage says {ours} tokens, /metrics {theirs}")
                    result["usage_mismatches"] += 1
    await client.aclose()
    return result, ends


def adds_up(generation: Generation) -> bool:
    """The usage is the ids counted, and nothing is unknown."""
    usage = generation.usage
    counted = (len(generation.thinking_ids), len(generation.close_ids), len(generation.solution_ids))
    forced = sum(not sampled for sampled in generation.sampled)
    return (usage.thinking, usage.close, usage.solution, usage.forced, usage.unknown) == (*counted, forced, 0)


if __name__ == "__main__":
    sys.exit(main())
