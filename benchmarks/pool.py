"""Thousands of tasks under one pool that can't give all of them what they want.

    python benchmarks/pool.py [--quick] [--json] [--constant] [--write] [--data DIR]

Tasks are those of `allocation.py`: chains and branches of measured outcomes of e1-tiny, played through one
real desk, all in one account whose cap is the pool. They arrive in the rhythm of the Azure traces (bursts,
spread over a day; exponential gaps where the traces aren't there, and the result says so), and are worth
different things: the logarithm of a value is normal with a standard deviation of 1.5, so that a tenth of the
tasks holds about six tenths of the value. Each has a cap of its own that would do for it. What counts is the
value of tasks whose calls are all right, as a share of the value of all tasks.

The pool is what answers without thinking take, and a share (the tightness) of what thinking would take beyond
that if there were no pool.

    fifo        first come, first served: `Marginal` under the shared account, as without `pool=`
    share       for each task an even part, by its calls, of what is left: this one knows how many come
    price       `pool=` as it comes: the dual price, 5% of the pool spent evenly
    price, all  the same without the 5%
    constant    the best of four prices for the whole stream, in hindsight (--constant)

`hindsight` knows the whole stream, and what calls of each kind use and how often they are right at each
limit: the relaxation of the knapsack over all tasks, which may mix ways of making one, and answers all of
them. It is in expectation; on one stream luck may beat it. `clairvoyant` knows every outcome, too.

With --json the last line of stdout is one JSON object; all is by tightness:
    value              policy -> share of the value, and its 95% interval over seeds
    hindsight_value    of the same: the bound; `clairvoyant_value`
    over_fifo, of_hindsight   price over fifo, and of the bound, with intervals
    starved            policy -> tasks without a final answer, of all seeds
    low                policy -> of the thinking, the share of the half of the tasks that is worth least
    violations         how often more was metered than the pool, or a task's caps, hold
    tasks              that were played
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks._replay import TINY, Memory, Outcome, Place, Played, Work, load, make_work, play, pool_of
from elastic_agent.scheduler.analysis.hindsight import Option, lp_bound
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.curve_files import load as load_curves
from elastic_agent.scheduler.estimates.success_curve import Vertex
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.policies.pacing import Pacing, Pool

DAY = 86_400.0
TIGHT = (0.2, 0.4, 0.7)
EACH = 226
"""Tokens a call of a task's own caps: enough for nearly all."""
SIGMA = 1.5
LEAST = 1e-3
"""A kind that was never right at a limit counts as right so often there."""
CONSTANT = (0.2, 0.5, 1.0, 2.0)
"""Constant prices, as multiples of the value of the stream over the pool."""


@dataclass(frozen=True)
class Arrival:
    """A task of the stream."""

    at: float
    value: float
    work: Work[Outcome]

    @property
    def cap(self) -> int:
        return EACH * len(self.work.calls)


class Fixed(Pacing):
    """A price that never moves."""

    price = brake = 1.0

    def __init__(self, cap: int, price: float) -> None:
        super().__init__(Pool(tokens=cap, per=DAY, fair=0.0))
        self.price = price


def times(folder: Path, tasks: int, rng: random.Random) -> tuple[str, list[float]]:
    """When tasks come, in seconds of a day: every so manieth request of the traces, from a random one on."""
    names = ("azure_llm_conv.csv", "azure_llm_code.csv")
    if all((folder / name).is_file() for name in names):
        source, found = "azure", []
        for name in names:
            with (folder / name).open() as file:
                found += [
                    datetime.fromisoformat(r["TIMESTAMP"][:26]).timestamp() for r in csv.DictReader(file)
                ]
        found.sort()
        every = len(found) // tasks
        found = found[rng.randrange(every) :: every][:tasks]
    else:
        source, at, found = "exponential", 0.0, []
        for _ in range(tasks):
            at += rng.expovariate(1.0)
            found.append(at)
    first, last = found[0], found[-1]
    return source, [(at - first) / (last - first) * (DAY - 600) for at in found]


def stream(folder: Path, outcomes: Sequence[Outcome], tasks: int, seed: int) -> tuple[str, list[Arrival]]:
    rng = random.Random(seed)
    work = make_work(pool_of(outcomes), tasks, seed=1000 + seed)
    source, at = times(folder, tasks, rng)
    rng.shuffle(work)
    return source, [Arrival(t, rng.lognormvariate(0.0, SIGMA), w) for t, w in zip(at, work, strict=True)]


class Truth:
    """What calls of each kind use and how often they are right, at each limit, in the outcomes themselves."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.hulls: dict[str, list[Vertex]] = {}
        for kind, rows in pool_of(outcomes).items():
            ways = []
            for t in rows[0].grid:
                found = [one.at(t) for one in rows]
                tokens = statistics.fmean(used + TINY.close + said for used, _, said in found)
                right = statistics.fmean(hit for _, hit, _ in found)
                ways.append(Vertex(t, tokens, math.log(max(right, LEAST))))
            self.hulls[kind] = hull_of(ways)

    def options(self, one: Arrival) -> list[Option]:
        """Ways to make a task: along the envelopes of its calls' tokens and log of the chance to be right."""
        tokens = log_chance = 0.0
        steps = []
        for call in one.work.calls:
            hull = self.hulls[call.kind]
            tokens, log_chance = tokens + hull[0].use, log_chance + hull[0].worth
            steps += [(a.slope(b), b.use - a.use) for a, b in pairwise(hull)]
        options = [Option(round(tokens), one.value * math.exp(log_chance))]
        for slope, use in sorted(steps, reverse=True):
            tokens, log_chance = tokens + use, log_chance + slope * use
            options.append(Option(round(tokens), one.value * math.exp(log_chance)))
        return options


def hull_of(ways: Sequence[Vertex]) -> list[Vertex]:
    """The upper envelope, as far as it rises."""
    hull: list[Vertex] = []
    for new in sorted(ways, key=lambda way: (way.use, -way.worth)):
        if hull and new.worth <= hull[-1].worth:
            continue
        while len(hull) >= 2 and hull[-2].slope(new) >= hull[-2].slope(hull[-1]):
            hull.pop()
        hull.append(new)
    return hull


class Bench:
    """One stream, under pools of any size."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self.curves = load_curves("e1-tiny")
        self.total = math.fsum(one.value for one in arrivals)
        self.played = self.violations = 0

    def run(self, cap: int | None, pacing: Pacing | None = None, *, even: bool = False) -> list[Played]:
        """All tasks, one after the other."""
        dispatcher, memory, policy = Dispatcher(pacing=pacing), Memory.of(self.curves), Marginal()
        account = dispatcher.ledger.open("pool", tokens=cap, now=0.0)
        calls = sum(len(one.work.calls) for one in self.arrivals)
        played = []
        for one in self.arrivals:
            own = one.cap
            if even and cap is not None:
                own = min(own, (cap - account.spent.tokens) * len(one.work.calls) // calls)
                calls -= len(one.work.calls)
            place = Place(dispatcher, account, one.at, one.value)
            played.append(play(one.work, max(1, own), policy, memory, place=place))
            self.violations += played[-1].metered > own
        metered = sum(each.metered for each in played)
        self.violations += cap is not None and metered > cap
        assert (account.spent.tokens, account.held.tokens) == (metered, 0)
        self.played += len(played)
        return played

    def value(self, played: Sequence[Played]) -> float:
        won = (one.value for one, each in zip(self.arrivals, played, strict=True) if all(each.right))
        return math.fsum(won) / self.total

    def low(self, played: Sequence[Played]) -> float:
        """Of the thinking, the share of the tasks below the median value."""
        median = statistics.median(one.value for one in self.arrivals)
        low = sum(e.thinking for one, e in zip(self.arrivals, played, strict=True) if one.value < median)
        return low / max(1, sum(each.thinking for each in played))

    def constant(self, cap: int) -> list[Played]:
        """The best constant price."""
        best: list[Played] = []
        for times_ in CONSTANT:
            played = self.run(cap, Fixed(cap, times_ * self.total / cap))
            best = max(best or played, played, key=self.value)
        return best

    def clairvoyant(self, cap: int) -> float:
        """Every task is answered, as cheaply as can be, or right, as cheaply as can be: the relaxation."""
        options = []
        for one in self.arrivals:
            ways = [call.at(0) for call in one.work.calls]
            floor = sum(used + TINY.close + said for used, _, said in ways)
            options.append([Option(floor, one.value * all(right for _, right, _ in ways))])
            costs = [call.cheapest for call in one.work.calls]
            known = [cost for cost in costs if cost is not None]
            if len(known) == len(costs):
                options[-1].append(Option(sum(known), one.value))
        return lp_bound(options, cap) / self.total

    def hindsight(self, cap: int, truth: Truth) -> float:
        """The same for one who knows kinds, not outcomes."""
        return lp_bound([truth.options(one) for one in self.arrivals], cap) / self.total


def play_seed(folder: Path, tasks: int, seed: int, tight: Sequence[float], constant: bool) -> dict[str, Any]:
    """One stream under every policy and pool."""
    outcomes = load()
    source, arrivals = stream(folder, outcomes, tasks, seed)
    bench, truth = Bench(arrivals), Truth(outcomes)
    floors = sum(sum(call.at(0)[2] + TINY.close for call in one.work.calls) for one in arrivals)
    free = bench.run(None)
    wanted = sum(each.metered for each in free)
    found: dict[str, Any] = {"source": source, "free": bench.value(free), "rows": {}}
    for share in tight:
        cap = round(floors + share * (wanted - floors))
        runs = {
            "fifo": bench.run(cap),
            "share": bench.run(cap, even=True),
            "price": bench.run(cap, Pacing(Pool(tokens=cap, per=DAY))),
            "price, all": bench.run(cap, Pacing(Pool(tokens=cap, per=DAY, fair=0.0))),
        }
        if constant:
            runs["constant"] = bench.constant(cap)
        found["rows"][share] = {
            "value": {name: bench.value(run) for name, run in runs.items()},
            "starved": {name: sum(not each.answered for each in run) for name, run in runs.items()},
            "low": {name: bench.low(run) for name, run in runs.items()},
            "used": {name: sum(each.metered for each in run) / cap for name, run in runs.items()},
            "hindsight": bench.hindsight(cap, truth),
            "clairvoyant": bench.clairvoyant(cap),
        }
    return {**found, "violations": bench.violations, "tasks": bench.played}


def over_seeds(values: Sequence[float]) -> list[float]:
    """Mean, and its 95% interval (Student's t) over seeds; the mean thrice for one seed."""
    mean, n = statistics.fmean(values), len(values)
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}.get(n, 1.96)
    half = t * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    return [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]


def measure(folder: Path, tasks: int, seeds: int, tight: Sequence[float], constant: bool) -> dict[str, Any]:
    """All seeds together."""
    runs = []
    for seed in range(seeds):
        runs.append(play_seed(folder, tasks, seed, tight, constant))
        print(f"stream {seed + 1} of {seeds}: {runs[-1]['tasks']:,} tasks played", flush=True)
    result: dict[str, Any] = {"trace": runs[0]["source"], "free": over_seeds([run["free"] for run in runs])}
    names = list(runs[0]["rows"][tight[0]]["value"])
    for share in tight:
        rows = [run["rows"][share] for run in runs]
        price = [row["value"]["price"] for row in rows]
        values = {
            "value": {name: over_seeds([row["value"][name] for row in rows]) for name in names},
            "hindsight_value": over_seeds([row["hindsight"] for row in rows]),
            "clairvoyant_value": over_seeds([row["clairvoyant"] for row in rows]),
            "over_fifo": over_seeds([p / row["value"]["fifo"] for p, row in zip(price, rows, strict=True)]),
            "of_hindsight": over_seeds([p / row["hindsight"] for p, row in zip(price, rows, strict=True)]),
            "starved": {name: sum(row["starved"][name] for row in rows) for name in names},
            "low": {name: over_seeds([row["low"][name] for row in rows]) for name in names},
            "used": {name: over_seeds([row["used"][name] for row in rows]) for name in names},
        }
        for field, value in values.items():
            result.setdefault(field, {})[str(share)] = value
    result["violations"] = sum(run["violations"] for run in runs)
    result["tasks"] = sum(run["tasks"] for run in runs)
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown: value and tasks without an answer, by policy and tightness."""
    shares = list(result["value"])
    lines = ["| policy | " + " | ".join(shares) + " |", "| --- " * (1 + len(shares)) + "|"]
    for name in result["value"][shares[0]]:
        cells = []
        for share in shares:
            mean, low, high = result["value"][share][name]
            starved = result["starved"][share][name]
            cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})" + f", {starved:,} starved" * bool(starved))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for field in ("hindsight_value", "clairvoyant_value", "over_fifo", "of_hindsight"):
        cells = [f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in result[field].values()]
        lines.append(f"| {field} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short stream")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--tasks", type=int, help="tasks of a stream (1500; quick: 500)")
    parser.add_argument("--seeds", type=int, help="streams (5; quick: 1)")
    parser.add_argument("--constant", action="store_true", help="the best constant price, too: twice as long")
    parser.add_argument("--write", action="store_true", help="benchmarks/data/pool.json")
    data = os.environ.get("ELASTIC_SHARED_DATA", "/work/shared/data")
    parser.add_argument("--data", type=Path, default=Path(data), help=f"the Azure traces ({data})")
    args = parser.parse_args()
    tasks, seeds = args.tasks or (500 if args.quick else 1500), args.seeds or (1 if args.quick else 5)
    result = measure(args.data, tasks, seeds, TIGHT, args.constant)
    print(table(result))
    print(f"arrivals: {result['trace']}; {result['violations']} caps broken in {result['tasks']:,} tasks")
    if args.write:
        Path(__file__).with_name("data").joinpath("pool.json").write_text(json.dumps(result) + "\n")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
