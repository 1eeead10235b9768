"""Two real vLLM servers as one backend, one of them killed under its calls: who answers, and what is charged.

    python benchmarks/vllm_replicas.py            150 calls; starts two servers (`make vllm`)
    python benchmarks/vllm_replicas.py --quick    60 calls
    python benchmarks/vllm_replicas.py --json     one JSON object as the last line

Tasks of one call each, 16 at once. A third of them runs on both servers; in the middle of it, while the
second server thinks, it is killed with SIGKILL, with its engine. Another third finds one server. Then the
second is started again, and the last third runs.

`broken`, by third, ended with an error of ours: in the first one those that the second server was at when it
died (`caught`, and what was just being sent to it), for a pass that may have begun is not run again; in the
others there is none. `refused` are tasks whose deadline seemed too near. `hung` ended neither way within the
deadline and --grace seconds. Every attempt is charged: `ledger_minus_meter`, what the ledger has beyond the
counters of both servers, lies between 0 and `charged_unknown`, which was charged because nobody could know.
`back` is the part of the last third's output that the second server brought.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks._calls import problem
from benchmarks._vllm import ENVIRONMENT, MODEL, OPTIONS, idle
from benchmarks.vllm_faults import AT_ONCE, Lanes, Watch, arguments, one, told
from elastic_agent.backends.replicas import Replicas
from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.usage import Usage


def main() -> int:
    args = arguments(__doc__, calls=150, quick=60, seconds=300)
    servers = [
        VllmProcess(MODEL, OPTIONS, log=Path(f"/tmp/elastic-vllm-replica-{i}.log"), environment=ENVIRONMENT)
        for i in range(2)
    ]
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        result = asyncio.run(measure(args, servers))
    finally:
        for server in servers:
            server.kill()
    return int(not told(result, args) or sum(result["broken"][1:]) > 0)


async def measure(args: argparse.Namespace, servers: list[VllmProcess]) -> dict[str, Any]:
    """The three thirds, and what came of them."""
    rng, victim = random.Random(args.seed), servers[1]
    first = VllmServerBackend(MODEL, servers[0].base_url)
    both = Replicas([first, VllmServerBackend(MODEL, victim.base_url, codec=first.codec)])
    await both.ready()
    ended: list[tuple[Usage, str, float]] = []
    errors: list[Counter[str]] = []
    caught = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        watches = [Watch(server.base_url, session) for server in servers]
        start = sum([(await idle(server.base_url, session)).output for server in servers])
        watching = [asyncio.create_task(watch.run()) for watch in watches]
        for third in range(3):
            before = [watch.output for watch in watches]
            async with BudgetScheduler(both) as scheduler:
                lanes = Lanes(AT_ONCE)
                tasks = [
                    asyncio.create_task(
                        one(scheduler, lanes, problem(rng), rng.randrange(2**31), args.seconds)
                    )
                    for _ in range(args.calls // 3)
                ]
                if third == 0:
                    while sum(task.done() for task in tasks) < len(tasks) // 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                    while both.replicas[1].running < AT_ONCE // 4:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                    victim.send(signal.SIGKILL)
                    caught = both.replicas[1].running
                    await asyncio.to_thread(victim.kill)
                    watches[1].reborn()
                    # What had come here was served, though its last counters may not have been read
                    watches[1].before = max(watches[1].before, both.replicas[1].backend.meter.output)
                found = await asyncio.gather(*tasks)
                scheduler.check()
            ended += found
            errors.append(Counter(error for _, error, _ in found if error))
            if third == 1:
                victim.launch()
                await asyncio.to_thread(victim.wait)
                while not both.replicas[1].fit:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            for watch, server in zip(watches, servers, strict=True):
                if server.running:
                    watch.last = await idle(server.base_url, session)
            served = [watch.output - was for watch, was in zip(watches, before, strict=True)]
            print(f"third {third + 1}: served {served}, errors {dict(errors[-1])}", flush=True)
        for task in watching:
            task.cancel()
        meter = sum(watch.output for watch in watches) - start
    await both.aclose()
    spent = sum([usage for usage, _, _ in ended], Usage())
    refused = [found.pop("DeadlineError", 0) for found in errors]
    broken = [found.total() for found in errors]
    return {
        "calls": len(ended),
        "answered": len(ended) - sum(broken) - sum(refused),
        "broken": broken,
        "refused": sum(refused),
        "caught": caught,
        "hung": sum(late > args.grace for _, _, late in ended),
        "ledger_minus_meter": spent.metered_output - meter,
        "charged_unknown": spent.unknown,
        "meter": meter,
        "back": round(served[1] / sum(served), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
