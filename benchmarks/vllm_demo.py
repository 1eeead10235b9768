"""The demo and the LangGraph example on a real vLLM server, beside plain `ChatOpenAI` with `max_tokens`.

    python benchmarks/vllm_demo.py            five seeds; starts a server (`make vllm`)
    python benchmarks/vllm_demo.py --quick    one seed
    python benchmarks/vllm_demo.py --json     one JSON object as the last line

Both ways run the same graphs with the same problems, sampling and caps on the same server, one after the
other. `ours` is `ChatElasticReasoning` under a task. `plain` is `ChatOpenAI` with the largest `max_tokens`
with which all calls together are sure to keep the cap: nothing else keeps one with it.

- `demo`: the shop's week of `elastic-agent demo`, 35 problems under $0.02 and --seconds.
- `example N`: `examples/langgraph_parallel.py`, 6 problems under N tokens (600 in the example itself).

`right` are answers that are true, by seed. `violations` are caps that were exceeded by what the server's own
counters say, prices applied, or by the clock.

ChatOpenAI gets text alone, without a word on where thinking ended (the marker is a special token), so its
answer is the number after the last "Answer:", or the last number of a text that was not cut.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import runpy
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from rich.console import Console

from benchmarks._vllm import backend, parser, served
from benchmarks._vllm_agents import SAMPLING, Plain, Score, metered
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Caps
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.integrations.demo.agent import EMPTY, State, answer_of, build_agent, row_of
from elastic_agent.integrations.demo.baseline import FixedMaxTokens
from elastic_agent.integrations.demo.board import Board
from elastic_agent.integrations.demo.problems import SHOP_WEEK, Day, count_kinds, load_days
from elastic_agent.integrations.demo.run import DemoOptions, elastic_run
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import BudgetScheduler, Price
from elastic_agent.scheduler.ledger.prices import find_price
from elastic_agent.scheduler.runlog.events import RunLog

EXAMPLE = Path(__file__).parent.parent / "examples" / "langgraph_parallel.py"
EXAMPLE_CAPS = (450, 600, 750, 900)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, help="how many (default 5, 1 with --quick)")
    options.add_argument("--seconds", type=float, default=60.0, help="deadline of the demo (default 60)")
    args = options.parse_args()
    with served(args) as base_url:
        result = asyncio.run(measure(args, base_url, args.seeds or (1 if args.quick else 5)))
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:18} {value}" for key, value in result.items())
    )
    return int(any(way["violations"] for both in result.values() for way in both.values()))


class PlainDemo(Plain):
    """As the demo's graph asks."""

    async def ask(self, label: str, text: str, kind: str) -> int | None:
        """For the demo's graph."""
        message = await self.ainvoke(text)
        return answer_of(str(message.text), cut=message.response_metadata["finish_reason"] == "length")


async def measure(args: argparse.Namespace, base_url: str, seeds: int) -> dict[str, dict[str, Any]]:
    """Both programs, both ways, for each seed."""
    days, caps = load_days(SHOP_WEEK), Caps(usd="0.02", seconds=args.seconds)
    names = ("demo", *(f"example {cap}" for cap in EXAMPLE_CAPS))
    scores = {name: {"ours": Score(), "plain": Score()} for name in names}
    client = await backend(args, base_url)
    price = find_price(client.model) or Price("0", "0")
    prompts = [len(prompt_ids(client, text)) for day in days for c in day.chains for text in c.steps]
    calls = count_kinds(days).total()
    most = FixedMaxTokens(client, caps, calls, max(prompts) + 8, price, SAMPLING).max_tokens
    async with aiohttp.ClientSession() as session:
        meter = partial(metered, base_url, session)
        for seed in range(args.seed, args.seed + seeds):
            one = scores["demo"]
            await one["ours"].run(meter, caps, price, ours_week(args, base_url, days, caps, seed, price))
            plain = PlainDemo(args, base_url, most, seed * 1_000_000)
            await one["plain"].run(meter, caps, price, plain_week(days, plain, args.seconds))
            for cap in EXAMPLE_CAPS:
                one, small = scores[f"example {cap}"], Caps(tokens=cap, seconds=120)
                await one["ours"].run(meter, small, price, ours_example(args, base_url, small, seed))
                plain = Plain(args, base_url, cap // 6, seed * 1_000_000)
                await one["plain"].run(meter, small, price, example(plain))
            for name, both in scores.items():
                print(seed, name, *(f"{way} {score.right[-1]}" for way, score in both.items()), flush=True)
    return {name: {way: score.told() for way, score in both.items()} for name, both in scores.items()}


async def ours_week(
    args: argparse.Namespace, base_url: str, days: list[Day], caps: Caps, seed: int, price: Price
) -> int:
    client = await backend(args, base_url)
    with TemporaryDirectory() as folder:
        log = RunLog(f"{folder}/run.jsonl")
        board = Board(caps, count_kinds(days).total(), log)
        options = DemoOptions(model=args.model, base_url=base_url, seed=seed, json=True)
        way = await elastic_run(options, days, caps, client, board, Console(quiet=True), price)
        log.close()
    await client.aclose()
    return right(days, way.state)


async def plain_week(days: list[Day], plain: PlainDemo, seconds: float) -> int:
    state: State = EMPTY
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            state = await build_agent(days, plain.ask).ainvoke(EMPTY, {"max_concurrency": 64})
    return right(days, state)


def right(days: list[Day], state: State) -> int:
    found = 0
    for number, day in enumerate(days):
        truth = [*(chain.answers[-1] for chain in day.chains), day.answer]
        found += sum(a == b for a, b in zip(row_of(state, number, day), truth, strict=True))
    return found


async def ours_example(args: argparse.Namespace, base_url: str, caps: Caps, seed: int) -> int:
    client = VllmServerBackend(args.model, base_url)
    llm = ChatElasticReasoning(backend=client, solution_budget=96, seed=seed * 1_000_000)
    async with BudgetScheduler(client) as scheduler, scheduler.task(caps, final_solution=96):
        found = await example(llm)
    await client.aclose()
    return found


async def example(llm: Any) -> int:
    """How many of its six numbers are right, with this chat model."""
    module = runpy.run_path(str(EXAMPLE))
    out = await module["build_graph"](llm).ainvoke({})
    truth = [4, 15, 15, 24, 35]
    counts = Counter(out["counts"]) & Counter(truth)
    return counts.total() + (module["number"](out["total"]) == sum(truth))


if __name__ == "__main__":
    sys.exit(main())
