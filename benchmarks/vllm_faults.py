"""Calls against a real vLLM server that fails under them: no hang, no silence, and the books stay right.

    python benchmarks/vllm_faults.py            500 calls, a kill every 100; starts a server
    python benchmarks/vllm_faults.py --quick    100 calls, one kill
    python benchmarks/vllm_faults.py --json     one JSON object as the last line

Tasks of one call each, 16 at once, under a deadline, through a proxy that spoils a third of the answers: cuts
the connection, stalls, delays, corrupts bytes, sends them twice. In the middle of every other wave the server
and its engine are killed with SIGKILL and started again; calls that have not begun by then wait until it
is back, the others (`caught`) find out. A call is `answered`, or ends with an error of ours
(`clear_errors`), or has `hung` when neither came within its deadline and --grace seconds.

`ledger_minus_meter` is the output that the ledger charged beyond what the server's own counters say; it has
to lie between 0 and `charged_unknown`, which was charged because nobody could know. The counters are read 20
times a second: what a killed server had counted last may lack a moment's tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks._calls import problem
from benchmarks._vllm import ENVIRONMENT, MODEL, OPTIONS, Counters, counters, idle, needs_vllm
from benchmarks._vllm_proxy import FaultyProxy
from elastic_agent.backends.base import Sampling
from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Caps
from elastic_agent.errors import ElasticError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.usage import Usage

WAVE, AT_ONCE = 50, 16


def main() -> int:
    args = arguments(__doc__, calls=500, quick=100, seconds=15)
    with VllmProcess(
        MODEL, OPTIONS, log=Path("/tmp/elastic-vllm-faults.log"), environment=ENVIRONMENT
    ) as server:
        result = asyncio.run(measure(args, server))
    return int(not told(result, args))


def arguments(about: str | None, calls: int, quick: int, seconds: float) -> argparse.Namespace:
    """Of a run of so many calls with a deadline; without vLLM it ends here."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{quick} calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--calls", type=int, help=f"how many calls (default {calls}, {quick} with --quick)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"deadline of a call (default {seconds:g})"
    )
    parser.add_argument("--grace", type=float, default=5.0, help="seconds past it that are no hang yet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.calls = args.calls or (quick if args.quick else calls)
    needs_vllm()
    return args


def told(result: dict[str, Any], args: argparse.Namespace) -> bool:
    """Print it. Returns whether every call ended and every token was charged."""
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:18} {value}" for key, value in result.items())
    )
    return result["hung"] == 0 and 0 <= result["ledger_minus_meter"] <= result["charged_unknown"]


class Watch:
    """What the server's counters say, over its lives."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._base_url, self._session = base_url, session
        self.last = Counters(0, 0, 0, 0, 0, 0)
        self.before = 0
        """Output tokens of the lives that are over."""

    async def run(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError):
                self.last = await counters(self._base_url, self._session)
            await asyncio.sleep(0.05)

    def reborn(self) -> None:
        self.before += self.last.output
        self.last = Counters(0, 0, 0, 0, 0, 0)

    @property
    def output(self) -> int:
        return self.before + self.last.output


async def measure(args: argparse.Namespace, server: VllmProcess) -> dict[str, int | dict[str, int]]:
    """The waves, and what came of them."""
    calls, rng = args.calls, random.Random(args.seed)
    outcome: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    spent = Usage()
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        FaultyProxy(server.port, random.Random(args.seed), share=1 / 3) as proxy,
    ):
        watch = Watch(server.base_url, session)
        start = (await idle(server.base_url, session)).output
        watching = asyncio.create_task(watch.run())
        kills = caught = 0
        for wave in range(0, calls, WAVE):
            backend = VllmServerBackend(MODEL, proxy.base_url, idle_timeout=5.0)
            await backend.ready()
            killed = wave % 100 == WAVE
            lanes = Lanes(AT_ONCE)
            async with BudgetScheduler(backend) as scheduler:
                ones = [
                    asyncio.create_task(
                        one(scheduler, lanes, problem(rng), rng.randrange(2**31), args.seconds)
                    )
                    for _ in range(min(WAVE, calls - wave))
                ]
                if killed:
                    while not any(task.done() for task in ones):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    lanes.open.clear()
                    caught += len(lanes.inside)
                    server.kill()
                    kills += 1
                    watch.reborn()
                    server.launch()
                    await asyncio.to_thread(server.wait)
                    lanes.open.set()
                _, hung = await asyncio.wait(ones, timeout=(WAVE / AT_ONCE + 1) * (args.seconds + args.grace))
                for task in ones:
                    if task in hung:
                        task.cancel()
                        outcome["hung"] += 1
                        continue
                    usage, error, late = task.result()
                    spent += usage
                    outcome["hung" if late > args.grace else "clear_errors" if error else "answered"] += 1
                    if error:
                        errors[error] += 1
                scheduler.check()
            await backend.aclose()
            watch.last = await idle(server.base_url, session)
            print(f"{sum(outcome.values())} calls: {dict(outcome)}, faults {dict(proxy.done)}", flush=True)
        watching.cancel()
        meter = watch.output - start
    return {
        "calls": sum(outcome.values()),
        "hung": outcome["hung"],
        "answered": outcome["answered"],
        "clear_errors": outcome["clear_errors"],
        "ledger_minus_meter": spent.metered_output - meter,
        "charged_unknown": spent.unknown,
        "meter": meter,
        "kills": kills,
        "caught": caught,
        "faults": dict(proxy.done),
        "errors": dict(errors),
    }


class Lanes:
    """How many calls run at once; and while they are not `open`, nobody joins those that are `inside`."""

    def __init__(self, number: int) -> None:
        self.free, self.open = asyncio.Semaphore(number), asyncio.Event()
        self.inside: set[object] = set()
        self.open.set()

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[None]:
        async with self.free:
            await self.open.wait()
            self.inside.add(me := object())
            try:
                yield
            finally:
                self.inside.discard(me)


async def one(
    scheduler: BudgetScheduler, lanes: Lanes, prompt: str, seed: int, seconds: float
) -> tuple[Usage, str, float]:
    """(usage charged, the error's kind or "", seconds past the deadline) of one task of one call."""
    async with lanes.lane():
        loop, usage = asyncio.get_running_loop(), Usage()
        end, error = loop.time() + seconds, ""
        try:
            async with scheduler.task(Caps(tokens=600, seconds=seconds)) as task:
                call = task.call(prompt, solution=60, sampling=Sampling(0.6, 0.95, seed=seed))
                try:
                    _ = [event async for event in call]
                finally:
                    usage = call.usage
                    assert (task.spent.tokens or 0) == usage.generated, "the ledger differs from the usage"
                result = call.result()
                if not result.solution_ids:
                    error = f"no solution: {result.solution_end}"
        except ElasticError as raised:
            error = type(raised).__name__
        return usage, error, loop.time() - end


if __name__ == "__main__":
    sys.exit(main())
