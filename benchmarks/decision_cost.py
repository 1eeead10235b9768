"""What a decision costs: allocate + hold + settle, by the real dispatcher, with 1, 100 and 10,000 live tasks.

    python benchmarks/decision_cost.py [--quick] [--json]

A decision is a call that is submitted, decided, held and settled; no model, no event loop and none of the
call's own bookkeeping are in the figure. The tasks are as in real use: capped in tokens, money and time,
e1-tiny's measured curves, the default policy, a known speed, one call running all the while, and some ten
calls of five kinds still to come. The tasks take their turns at random; one that has made its calls is
replaced, off the clock.

With a store, a decision goes on to it the way that a scheduler's does: it waits for its durable hold; its end
is written behind and shares a commit with the next hold, so its time is in the next decision's. Every live
task has a hold there, and its reserve. The servers are throw-away ones on this machine, PostgreSQL as it
comes, Redis with an append-only file that is synced at every step.

Beside it, in the same run and as often, LiteLLM's own budget checks in memory: what it does before a call
and after it, with 100 keys. They know money alone, on one account, and allocate nothing;
`_litellm_budget.py` says what is timed. Needs `make litellm`.

With --json the last line of stdout is one JSON object:
    memory        live tasks -> p50_us, p99_us: microseconds for a decision, with no log
    memory_logged the same while all that a replay needs is written to a file
    memory_new    the same as memory when nothing of the kind was decided before: what is kept of mixtures of
                  calls and of limits for the next time is forgotten before each decision
    calls         live tasks -> Python function calls of a decision; does not depend on the machine
    sqlite, postgres, redis   the same as memory, and at_once_us, an average with 50 calls at once, which
                  share commits (with at least as many tasks); left out where the server is not installed
    round_trip_us the store -> p50_us, p99_us of one bare write of one row to the same place, in the same run
    refusal_ms    tasks that were promised their answers in time -> p50, p99: milliseconds until one more, for
                  which there is no room, is refused at its opening (16 slots; three tasks in four have steps
                  or parts before their answer); `refused`: how many were, of those who asked
    round_trips   the store -> p50 of a decision as a multiple of that, with the fewest live tasks
    litellm       what -> p50_us, p99_us: proxy_reserve (its proxy's default: check, reserve, reconcile),
                  proxy_check (no reservation), proxy_count (its count of the prompt alone), manager (the
                  SDK's, as it comes), manager_unsaved; left out, as is litellm_version, without LiteLLM
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import quantiles
from types import FrameType
from typing import Any

import psycopg
import redis
from _litellm import NoLiteLLMError, litellm_python
from _servers import NoServerError, PostgresServer, RedisServer

from elastic_agent import Caps
from elastic_agent.errors import DeadlineError
from elastic_agent.scheduler.allocation import demand as expect
from elastic_agent.scheduler.allocation import grant
from elastic_agent.scheduler.allocation.call_terms import CallSize, CallTerms, ModelFacts
from elastic_agent.scheduler.allocation.request import Running, build_request
from elastic_agent.scheduler.allocation.task_state import TaskState, build_task_state
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.call_stats import UsageStats
from elastic_agent.scheduler.estimates.curve_files import load
from elastic_agent.scheduler.latency.model import Latency, Pace
from elastic_agent.scheduler.latency.prefill import First
from elastic_agent.scheduler.latency.slack import Timing
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.durable.durable_ledger import DurableLedger
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.scheduler.policies import marginal, protocol
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.queueing.endpoint import Endpoint
from elastic_agent.scheduler.runlog.events import RunLog, Sink
from elastic_agent.usage import worst_case

LIVE = (1, 100, 10_000)
AT_ONCE = 50
CAPS = Caps(tokens=1600, usd="0.0046", seconds=60)
EXPECT = {"steps-3": 3, "steps-4": 3, "steps-5": 3, "steps-7": 3, "final": 1}
TURNS = ("steps-3", "steps-5", "steps-4", "steps-7") * 2
"""The calls of a task that are timed; the rest of what it expects is still to come when it is replaced."""


SIZE = CallSize(prompt=52, fresh=52, thinking=1024, solution=96, close=1)
TERMS = {kind: CallTerms(kind) for kind in TURNS}
"""What a user says of each call, checked once: that is no part of a decision."""


class Office:
    """A dispatcher with so many live tasks, and the calls that they make.

    Args:
        tasks: how many are live at once.
        log: where events go, all that a replay needs.
        dispatcher: instead of its own.
        durable: the ledger that the tasks are charged to, of that dispatcher; no call has a hold there yet.

    Attributes:
        standing: the calls that run all the while.
    """

    def __init__(
        self,
        tasks: int,
        log: Sink | None = None,
        dispatcher: Dispatcher | None = None,
        durable: DurableLedger | None = None,
    ) -> None:
        self.dispatcher = dispatcher or Dispatcher(files=[] if log is None else [log])
        self._durable = durable
        self.standing: list[Running] = []
        self._log = log
        self._curves, self._price, self._policy = load("e1-tiny"), Price("0.50", "2.00"), Marginal()
        latency, self._usage_stats = Latency(), UsageStats()
        watched = self.dispatcher.record.watched(latency, "e1-tiny")
        self._model = ModelFacts("e1-tiny", self._curves, watched, self._usage_stats, self._price)
        pace = Pace(latency)
        for _ in range(64):
            pace.first(1, First(0.04))
            pace.more(16, 0.16)
        for kind in TURNS:
            self._usage_stats.record(kind, 52, 40)
        self._random, self._now, self._opened = random.Random(0), 0.0, 0
        self._tasks = [self._task() for _ in range(tasks)]

    def turn(self) -> tuple[TaskState, str]:
        """Whose turn it is, and the kind of its next call."""
        at = self._random.randrange(len(self._tasks))
        state, kinds = self._tasks[at]
        kind = next(kinds, None)
        if kind is None:
            self.dispatcher.close(state, self._now)
            if self._durable is not None:
                self._durable.close(state.account)
            state, kinds = self._tasks[at] = self._task()
            kind = next(kinds)
        self._now += 0.001
        return state, kind

    def spread(self) -> None:
        """Have each task make some of its calls: tasks that live are at all places between their first call
        and their last."""
        for at, (state, kinds) in enumerate(self._tasks):
            for kind in islice(kinds, at % len(TURNS)):
                running = self.grant(state, kind)
                self.settle(running, self.used(running))

    def grant(self, state: TaskState, kind: str) -> Running:
        """A call asks and is granted."""
        request = build_request(state, SIZE, self._model, TERMS[kind])
        self.dispatcher.submit(request, self._now)
        self.dispatcher.run_pass(state.account, self._now)
        assert isinstance(request.outcome, Running), request.outcome
        return request.outcome

    def used(self, running: Running) -> Amount:
        """It has answered, with half of its thinking and of its solution; the next plans learn from it."""
        request, budget = running.request, running.grant.budget
        size, thinking = request.size, (budget.thinking or 0) // 2
        usage = worst_case(size.prompt, thinking, size.close, budget.solution // 2)
        running.record_usage(usage)
        return Amount(usage.generated, self._price.charge(usage))

    def settle(self, running: Running, used: Amount) -> None:
        """What it has used is spent, the rest comes back."""
        self.dispatcher.settle(running, used, self._now)

    def _task(self) -> tuple[TaskState, Iterator[str]]:
        """A task with one call that runs."""
        self._opened += 1
        name = f"task-{self._opened}"
        account = self.dispatcher.ledger.open(
            name,
            parent=None if self._durable is None else self._durable.account(),
            tokens=CAPS.tokens,
            nano=CAPS.nanodollars,
            seconds=CAPS.seconds,
            now=self._now,
        )
        state = build_task_state(name, account, self._policy, now=self._now, emit=self._log)
        self.dispatcher.open(state, self._now, expect=EXPECT, started="")
        self.standing.append(self.grant(state, "steps-3"))
        return state, iter(TURNS)


def forget() -> None:
    """Nothing is kept of earlier decisions."""
    for kept in (marginal.gain_schedule, protocol.needs, expect._by_curve, grant.budget):
        kept.cache_clear()


def times(office: Office, decisions: int, before: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Microseconds for a decision: p50 and p99 of so many; `before` is called before each, off the clock."""
    found = []
    for _ in range(decisions):
        state, kind = office.turn()
        before()
        start = time.perf_counter_ns()
        running = office.grant(state, kind)
        granted = time.perf_counter_ns()
        used = office.used(running)
        settling = time.perf_counter_ns()
        office.settle(running, used)
        found.append(time.perf_counter_ns() - settling + granted - start)
    return quantiles_us(found)


def quantiles_us(nanoseconds: list[int]) -> dict[str, float]:
    cuts = quantiles([each / 1000 for each in nanoseconds], n=100)
    return {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}


async def durable_times(url: str, live: int, decisions: int) -> dict[str, float]:
    """A decision with its hold in a store, one after another, beside so many live ones there."""
    dispatcher, account = Dispatcher(), f"acme/{live}"
    path = [Spec("acme"), Spec(account, tokens=2**50, nano=2**50)]
    durable = DurableLedger(dispatcher.ledger, open_store(url), path, lease=3600)
    await durable.open()
    dispatcher.running.hold_ended = durable.end
    office = Office(live, dispatcher=dispatcher, durable=durable)
    for first in range(0, live, 64):
        assert not any(
            await asyncio.gather(*(durable.take(r.hold) for r in office.standing[first : first + 64]))
        )
    found = []
    for _ in range(decisions):
        state, kind = office.turn()
        start = time.perf_counter_ns()
        running = office.grant(state, kind)
        assert await durable.take(running.hold, final=running.grant.last) is None
        granted = time.perf_counter_ns()
        used = office.used(running)
        settling = time.perf_counter_ns()
        office.settle(running, used)
        found.append(time.perf_counter_ns() - settling + granted - start)

    async def one() -> None:
        running = office.grant(*office.turn())
        assert await durable.take(running.hold, final=running.grant.last) is None
        office.settle(running, office.used(running))

    cost = quantiles_us(found)
    if live >= AT_ONCE:
        start = time.perf_counter_ns()
        for _ in range(0, decisions, AT_ONCE):
            await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        cost["at_once_us"] = round((time.perf_counter_ns() - start) / 1000 / decisions, 1)
    await durable.aclose()
    return cost


def round_trips(write: Callable[[], object], count: int) -> dict[str, float]:
    found = []
    for _ in range(count):
        start = time.perf_counter_ns()
        write()
        found.append(time.perf_counter_ns() - start)
    return quantiles_us(found)


def bare_write(name: str, url: str) -> Callable[[], object]:
    """One row, written as durably as the store of this name writes its own."""
    if name == "sqlite":
        file = sqlite3.connect(url, isolation_level=None)
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=NORMAL")
        file.execute("CREATE TABLE probe (at INTEGER)")
        return lambda: file.execute("INSERT INTO probe VALUES (1)")
    if name == "postgres":
        server = psycopg.connect(url, autocommit=True)
        server.execute("CREATE TABLE probe (at INTEGER)")
        return lambda: server.execute("INSERT INTO probe VALUES (1)")
    client = redis.Redis.from_url(url)
    return lambda: client.set("probe", 1)


def durable(found: dict[str, Any], decisions: int, lives: tuple[int, ...]) -> None:
    """All stores that can be started here, into `found`."""
    found |= {"round_trip_us": {}, "round_trips": {}}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name, server in (("sqlite", None), ("postgres", PostgresServer), ("redis", RedisServer)):
            try:
                url = f"{folder}/ledger.db" if server is None else stack.enter_context(server()).url
            except NoServerError as error:
                print(f"{name}: {error}")
                continue
            found[name] = {str(live): asyncio.run(durable_times(url, live, decisions)) for live in lives}
            bare = f"{folder}/probe.db" if server is None else url
            found["round_trip_us"][name] = round_trips(bare_write(name, bare), decisions)
            first, trip = found[name][str(lives[0])]["p50_us"], found["round_trip_us"][name]["p50_us"]
            found["round_trips"][name] = round(first / trip, 2)
            print(f"{name}: {found[name]}; a bare write {found['round_trip_us'][name]}", flush=True)


def litellm(found: dict[str, Any], calls: int) -> None:
    """LiteLLM's budget checks, by a process in its own environment, into `found`.

    Raises:
        subprocess.CalledProcessError: it is installed and failed.
    """
    try:
        python = litellm_python()
    except NoLiteLLMError as error:
        print(f"litellm: {error}")
        return
    script = Path(__file__).with_name("_litellm_budget.py")
    done = subprocess.run(
        # -P: none of our scripts is ever taken for a module of its own
        [python, "-P", script, "--calls", str(calls)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    found |= {"litellm": said["times"], "litellm_version": said["version"]}
    print(f"litellm {said['version']}: {said['times']}", flush=True)


def refusals(promised: int, count: int) -> dict[str, float]:
    """Milliseconds of refusals beside so many promises that leave no room before their deadlines."""
    rng, dispatcher, latency, found = random.Random(0), Dispatcher(), Latency(), list[int]()
    endpoint = Endpoint(latency, UsageStats(), timing=Timing(), max_running=16)

    def ask(number: int, seconds: float) -> None:
        account = dispatcher.ledger.open(f"task-{number}", seconds=seconds, now=0.0)
        state = build_task_state(account.id, account, Marginal(), final_solution=64, parallel=["part"])
        state.forecast.expect(rng.choice(({"final": 1}, {"step": 2}, {"part": 3}, {"step": 1, "part": 2})))
        start = time.perf_counter_ns()
        try:
            dispatcher.open(state, 0.0, endpoint)
        except DeadlineError:
            found.append(time.perf_counter_ns() - start)
            dispatcher.ledger.close(account)

    for number in range(promised):  # its speed is not known yet, so all are admitted
        ask(number, 2 + 0.06 * promised * rng.random())
    pace = Pace(latency)
    for _ in range(64):
        pace.first(1, First(0.04))
        pace.more(16, 0.16)
    for number in range(promised, promised + count):
        ask(number, 2 + 0.06 * promised * rng.random())
    cuts = quantiles([each / 1e6 for each in found], n=100)
    return {"refused": len(found), "p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def function_calls(office: Office, decisions: int) -> float:
    """Python functions that a decision enters, on average, once a few like it were made."""
    office.spread()
    times(office, 2 * len(TURNS))
    entered = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal entered
        entered += event == "call"

    for _ in range(decisions):
        state, kind = office.turn()
        sys.setprofile(count)
        running = office.grant(state, kind)
        sys.setprofile(None)
        used = office.used(running)
        sys.setprofile(count)
        office.settle(running, used)
        sys.setprofile(None)
    return entered / decisions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decisions", type=int, default=20_000, help="decisions that are timed, each")
    parser.add_argument("--quick", action="store_true", help="2,000 decisions each; under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    decisions = 2_000 if args.quick else args.decisions
    found: dict[str, Any] = {"memory": {}, "memory_logged": {}, "memory_new": {}, "calls": {}}
    with tempfile.TemporaryDirectory() as folder:
        for live in LIVE:
            found["memory"][str(live)] = times(Office(live), decisions)
            log = RunLog(Path(folder) / f"{live}.jsonl")
            found["memory_logged"][str(live)] = times(Office(live, log), decisions)
            log.close()
            found["memory_new"][str(live)] = times(Office(live), decisions // 10, forget)
            found["calls"][str(live)] = round(function_calls(Office(live), 200), 1)
            shown = [f"{found['calls'][str(live)]} function calls"]
            for name in ("memory", "memory_logged", "memory_new"):
                cost = found[name][str(live)]
                shown.append(f"{name} p50 {cost['p50_us']} us, p99 {cost['p99_us']} us")
            print(f"{live:,} live tasks: " + "; ".join(shown), flush=True)
    found["refusal_ms"] = {}
    for promised in (100, 1_000, 10_000):
        found["refusal_ms"][str(promised)] = cost = refusals(promised, decisions // 20)
        print(f"{promised:,} promised tasks: a refusal takes p50 {cost['p50']} ms, p99 {cost['p99']} ms")
    litellm(found, decisions)
    durable(found, decisions // 20, LIVE[:2] if args.quick else LIVE)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
