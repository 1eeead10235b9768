"""The live page in a real browser while 200 tasks run: how soon it shows what happened, and what it takes.

    python benchmarks/page.py [--seconds 600] [--tasks 200] [--quick] [--json]

Tasks of a scripted model open, make ten calls and end, 200 at a time; the page is open in headless Chromium.
Every second a task with a name of its own opens, and its name is waited for in the page. The memory of the
page is what its JavaScript holds after a garbage collection.

With --json the last line of stdout is one JSON object:
    tasks, seconds     open at once; how long
    events_per_second  of the scheduler
    latency            seconds from the opening of a task until its name is in the page: p50, p99, max
    heap_mb            of the page: a tenth into the run, at its end, and the most
    process_mb         resident memory of this process, scheduler included: likewise
    errors             in the page or its console
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.page import LivePage
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.runlog.events import Event
from tests.browser import Browser, find_browser

PAGE = 4096
CALLS = 10


async def measure(program: str, tasks: int, seconds: float) -> dict[str, Any]:
    """A run of so many seconds."""
    events = 0

    def count(event: Event) -> None:
        nonlocal events
        events += 1

    backend = ScriptedBackend(Reply("hm " * 40, "so it is 42"), tpot=0.02)
    latencies: list[float] = []
    memory: list[tuple[float, float]] = []
    with LivePage(0) as page, Browser(program) as browser:
        async with BudgetScheduler(backend, log=[page, count]) as scheduler:

            async def work(at: int) -> None:
                for turn in range(1_000_000):
                    async with scheduler.task(
                        Caps(tokens=2000, seconds=60), name=f"task {at}.{turn}"
                    ) as task:
                        for _ in range(CALLS):
                            await task.generate("hello there", kind=f"kind {at % 4}")

            working = [asyncio.create_task(work(at)) for at in range(tasks)]
            await asyncio.to_thread(browser.open, page.url)
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                name = f"seen {passed:.3f}"
                async with scheduler.task(Caps(tokens=100), name=name):
                    latencies.append(await asyncio.to_thread(until_seen, browser, name))
                memory.append(await asyncio.to_thread(read_memory, browser))
                await asyncio.sleep(1)
            passed = time.monotonic() - began
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        errors = list(browser.errors)
    latencies.sort()
    heap, process = zip(*memory, strict=True)
    return {
        "tasks": tasks,
        "seconds": round(passed, 1),
        "events_per_second": round(events / passed),
        "latency": {
            "p50": round(latencies[len(latencies) // 2], 3),
            "p99": round(latencies[int(0.99 * (len(latencies) - 1))], 3),
            "max": round(latencies[-1], 3),
        },
        "heap_mb": over_time(heap),
        "process_mb": over_time(process),
        "errors": errors,
    }


def until_seen(browser: Browser, name: str) -> float:
    """Seconds until a task of this name is in the page."""
    began = time.monotonic()
    names = (
        "[...document.querySelectorAll('.name')].some(one => one.textContent === " + json.dumps(name) + ")"
    )
    while not browser.run(names):
        if time.monotonic() - began > 30:
            raise TimeoutError(f"{name} was never seen")
        time.sleep(0.01)
    return time.monotonic() - began


def read_memory(browser: Browser) -> tuple[float, float]:
    """Megabytes: what the page's JavaScript holds, and this process."""
    browser.ask("HeapProfiler.collectGarbage")
    heap = browser.ask("Runtime.getHeapUsage")["usedSize"]
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    return heap / 1e6, resident / 1e6


def over_time(values: tuple[float, ...]) -> dict[str, float]:
    """A tenth into the run, when all is warm; at its end; the most."""
    return {
        "early": round(values[len(values) // 10], 1),
        "end": round(values[-1], 1),
        "most": round(max(values), 1),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, help="how long (default: 600, quick: 15)")
    parser.add_argument("--tasks", type=int, default=200, help="open at once (default: 200)")
    parser.add_argument("--quick", action="store_true", help="a short run")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    program = find_browser()
    if program is None:
        raise SystemExit("no browser: apt-get install chromium")
    found = asyncio.run(measure(program, args.tasks, args.seconds or (15 if args.quick else 600)))
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
