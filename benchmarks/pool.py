"""Thousands of tasks under one pool that can't give all of them what they want.

    python benchmarks/pool.py [--quick] [--json] [--write] [--data DIR]

Tasks are those of `allocation.py`: chains and branches of measured outcomes of e1-tiny, played through one real
desk, all in one account whose cap is the pool. They arrive in the rhythm of the Azure traces (bursts, spread
over a day; exponential gaps where the traces aren't there, and the result says so), and are worth different
things: the logarithm of a value is normal with a standard deviation of 1.5, so that a tenth of the tasks holds
six tenths of the value. Each has caps of its own that would do for it. What counts is the value of tasks whose
calls are all right, as a share of the value of all tasks.

The pool is what answers without thinking take, and a share (the tightness) of what thinking would take beyond
that if there were no pool.

    fifo        first come, first served: `Marginal` under the shared account, as without `pool=`
    share       an even part, for each of its calls, of what is left, for each task: this one knows how many come
    price       `pool=` as it comes: the dual price, 5% of the pool spent evenly
    price, all  the same without the 5%
    constant    the one price for the whole stream that is best in hindsight, of a grid

`hindsight` is a bound: it knows the whole stream and how likely calls of each kind are right at each limit, and
may mix ways of making a task: the relaxation of the knapsack. `clairvoyant` knows every outcome, too.

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
from pathlib import Path
from typing import Any

from _replay import CLOSE, Memory, Outcome, Place, Played, Work, load, make_work, play, pool_of

from elastic_agent.scheduler.curves import load as load_curves
from elastic_agent.scheduler.desk import Desk
from elastic_agent.scheduler.oracle import Option, lp_bound
from elastic_agent.scheduler.policies import Marginal, Need, _ladder
from elastic_agent.scheduler.pool import Pacer, Pool

DAY = 86_400.0
TIGHT = (0.2, 0.4, 0.7)
EACH = 226
"""Tokens a call of a task's own caps: enough for nearly all."""
SIGMA = 1.5
CONSTANT = tuple(10 ** (i / 4) for i in range(-8, 5))
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


class Fixed(Pacer):
    """A price that never moves."""

    def _move(self, ahead: float) -> None:
        pass


def times(folder: Path, tasks: int, rng: random.Random) -> tuple[str, list[float]]:
    """When tasks come, in seconds of a day: every so manieth request of the traces, from a random one on."""
    names = ("azure_llm_conv.csv", "azure_llm_code.csv")
    if all((folder / name).is_file() for name in names):
        source, found = "azure", []
        for name in names:
            with (folder / name).open() as file:
                found += [datetime.fromisoformat(r["TIMESTAMP"][:26]).timestamp() for r in csv.DictReader(file)]
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


class Bench:
    """One stream, under pools of any size."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self.curves = load_curves("e1-tiny")
        self.total = math.fsum(one.value for one in arrivals)
        self.played = self.violations = 0

    def run(self, cap: int | None, pacer: Pacer | None = None, *, even: bool = False) -> list[Played]:
        """All tasks, one after the other."""
        desk, memory, policy = Desk(pacer=pacer), Memory.of(self.curves), Marginal()
        account = desk.ledger.open("pool", tokens=cap, now=0.0)
        calls = sum(len(one.work.calls) for one in self.arrivals)
        played = []
        for one in self.arrivals:
            own = one.cap
            if even and cap is not None:
                own = min(own, (cap - account.spent_tokens) * len(one.work.calls) // calls)
                calls -= len(one.work.calls)
            place = Place(desk, account, one.at, one.value)
            played.append(play(one.work, max(1, own), policy, memory, place=place))
            self.violations += played[-1].metered > own
        metered = sum(each.metered for each in played)
        self.violations += cap is not None and metered > cap
        assert account.spent_tokens == metered and account.held_tokens == 0
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
            pacer = Fixed(Pool(tokens=cap, per=DAY, fair=0.0))
            pacer.price = times_ * self.total / cap
            played = self.run(cap, pacer)
            best = max(best or played, played, key=self.value)
        return best

    def clairvoyant(self, cap: int) -> float:
        """Every task is answered, as cheaply as can be, or right, as cheaply as can be: the relaxation."""
        options = []
        for one in self.arrivals:
            ways = [call.at(0) for call in one.work.calls]
            floor = sum(used + CLOSE + said for used, _, said in ways)
            options.append([Option(floor, one.value * all(right for _, right, _ in ways))])
            costs = [call.cheapest for call in one.work.calls]
            known = [cost for cost in costs if cost is not None]
            if len(known) == len(costs):
                options[-1].append(Option(sum(known), one.value))
        return lp_bound(options, cap) / self.total

    def hindsight(self, cap: int, truth: Truth) -> float:
        """The same for one who knows kinds, not outcomes."""
        return lp_bound([truth.options(one) for one in self.arrivals], cap) / self.total


class Truth:
    """What calls of each kind use and how often they are right, at each limit, in the outcomes themselves."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.ways: dict[str, list[tuple[float, float]]] = {}
        for kind, rows in pool_of(outcomes).items():
            ways = []
            for t in rows[0].grid:
                found = [one.at(t) for one in rows]
                tokens = statistics.fmean(used + CLOSE * (used < o.thinking) + said for o, (used, _, said) in zip(rows, found, strict=True))
                ways.append((tokens, statistics.fmean(right for _, right, _ in found)))
            self.ways[kind] = ways

    def options(self, one: Arrival) -> list[Option]:
        """Ways to make a task along the envelope of tokens and the log of the chance that all is right."""
        steps, tokens, chance = [], 0.0, 1.0
        for call in one.work.calls:
            hull = envelope(self.ways[call.kind])
            tokens, chance = tokens + hull[0][0], chance * hull[0][1]
            for (t0, p0), (t1, p1) in zip(hull, hull[1:], strict=False):
                steps.append((math.log(p1 / p0) / (t1 - t0), t1 - t0, p1 / p0))
        options = [Option(round(tokens), one.value * chance)]
        for _, more, gain in sorted(steps, reverse=True):
            tokens, chance = tokens + more, chance * gain
            options.append(Option(round(tokens), one.value * chance))
        return options
