"""The demo by itself: right answers of its 35 under its caps, beside one fixed `max_tokens` a call.

    python benchmarks/demo.py [--quick] [--json] [--write]

Five seeds; --quick runs one. --write keeps the course of the first (data/demo.json: when each answer came,
and what was spent by then), and draws docs/demo.svg of it. With --json the last line of stdout is one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks._demo_picture import Course, count_right, picture
from elastic_agent import load_backend
from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import to_usd
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.integrations.demo.agent import EMPTY, State, build_agent, row_of
from elastic_agent.integrations.demo.baseline import FixedMaxTokens
from elastic_agent.integrations.demo.board import Board
from elastic_agent.integrations.demo.problems import SHOP_WEEK, Day, count_kinds, load_days
from elastic_agent.integrations.demo.run import DEFAULT_CAPS, DemoOptions, elastic_run
from elastic_agent.scheduler import Price
from elastic_agent.scheduler.ledger.prices import find_price, require_price
from elastic_agent.scheduler.runlog.events import RunLog

HERE = Path(__file__).resolve().parent
DATA, PICTURE = HERE / "data" / "demo.json", HERE.parent / "docs" / "demo.svg"
SEEDS, PARALLEL, SEED_STEP = 5, 64, 1_000_000
MODEL = "e1-tiny"


@dataclass(slots=True)
class Watch(Board):
    """The demo's board, which also notes when each call ended, and what was left of the money then."""

    start: float = field(default_factory=time.monotonic)
    ends: list[tuple[float, str, float]] = field(default_factory=list)

    def event(self, event: dict[str, Any]) -> None:
        Board.event(self, event)
        if event["event"] == "settled" and "label" in event:
            held = sum(hold["usd"] for hold in self.held.values())
            spent = float(self.caps.usd or 0) - self.left["usd"] - held
            self.ends.append((time.monotonic() - self.start, event["label"], spent))


def course(days: list[Day], state: State, ends: list[tuple[float, str, float]]) -> Course:
    """When each of the 35 answers came, and what was spent by then."""
    came = {label.partition(",")[0]: seconds for seconds, label, _ in ends}
    answers: list[list[int | None]] = [row_of(state, number, day) for number, day in enumerate(days)]
    seconds = []
    for day in days:
        labels = [f"{day.name} / {chain.name} {len(chain.steps)}" for chain in day.chains]
        seconds.append([round(came.get(label, 0), 2) for label in (*labels, f"{day.name} / total")])
    spent = [[round(at, 2), round(usd, 6)] for at, _, usd in ends]
    return {"answers": answers, "seconds": seconds, "spent": spent}


async def ours(days: list[Day], backend: Backend, price: Price, seed: int) -> Course:
    """The agent under the scheduler."""
    with tempfile.TemporaryDirectory() as folder, closing(RunLog(f"{folder}/run.jsonl")) as log:
        board = Watch(DEFAULT_CAPS, count_kinds(days).total(), log)
        options = DemoOptions(seed=seed, json=True)
        way = await elastic_run(options, days, DEFAULT_CAPS, backend, board, Console(quiet=True), price)
    return course(days, way.state, board.ends)


async def theirs(days: list[Day], backend: Backend, price: Price, seed: int) -> Course:
    """The same agent with one fixed `max_tokens` a call."""
    longest = max(len(prompt_ids(backend, text)) for day in days for c in day.chains for text in c.steps)
    sampling = Sampling(temperature=0.6, top_p=0.95, seed=seed * SEED_STEP)
    calls = count_kinds(days).total()
    fixed = FixedMaxTokens(backend, DEFAULT_CAPS, calls, longest + 8, price, sampling)
    start, ends = time.monotonic(), list[tuple[float, str, float]]()

    async def ask(label: str, text: str, kind: str) -> int | None:
        answer = await fixed.ask(label, text, kind)
        ends.append((time.monotonic() - start, label, float(to_usd(price.charge(fixed.usage)))))
        return answer

    state: State = await build_agent(days, ask).ainvoke(EMPTY, {"max_concurrency": PARALLEL})
    return course(days, state, ends)


async def measure(seeds: int) -> dict[str, Any]:
    """Both ways for each seed; the course of the first."""
    days, backend = load_days(SHOP_WEEK), load_backend(MODEL)
    await backend.ready()
    price = require_price(find_price(MODEL), MODEL)
    result: dict[str, Any] = {"cap": float(DEFAULT_CAPS.usd or 0), "ours": [], "theirs": []}
    courses: list[dict[str, Course]] = []
    for seed in range(seeds):
        ways = {"ours": ours, "theirs": theirs}
        courses.append({name: await way(days, backend, price, seed) for name, way in ways.items()})
        for name, found in courses[-1].items():
            right = count_right(found["answers"], [day.truth for day in days])
            result[name].append({"right": right, "usd": found["spent"][-1][1]})
        print(f"seed {seed}:", *(f"{name} {result[name][-1]}" for name in ways), flush=True)
    await backend.aclose()
    return result | {
        "course": {"cap": result["cap"], "truth": {day.name: day.truth for day in days}, **courses[0]}
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--write", action="store_true", help="data/demo.json and docs/demo.svg, of the first seed"
    )
    args = parser.parse_args()
    found = asyncio.run(measure(1 if args.quick else SEEDS))
    first = found.pop("course")
    if args.write:
        DATA.write_text(json.dumps(first) + "\n")
        PICTURE.write_text(picture(first))
    if args.json:
        print(json.dumps(found))
    return int(any(one["usd"] > found["cap"] for one in [*found["ours"], *found["theirs"]]))


if __name__ == "__main__":
    sys.exit(main())
