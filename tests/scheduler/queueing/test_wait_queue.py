"""An endpoint's queue under any sequence of calls, ends and withdrawals: order, fairness, nothing lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from elastic_agent.scheduler.allocation.call_terms import CallSize, CallTerms, ModelFacts
from elastic_agent.scheduler.allocation.request import Request, Running, build_request
from elastic_agent.scheduler.allocation.task_state import TaskState, build_task_state
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.call_stats import UsageStats
from elastic_agent.scheduler.estimates.curve_files import load
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.latency.slack import Timing
from elastic_agent.scheduler.ledger.amounts import INFINITY, Amount
from elastic_agent.scheduler.policies.simple import Uniform
from elastic_agent.scheduler.queueing.endpoint import PATIENCE, Endpoint

CURVES = load("")
LARGEST = 64
TASK, WHICH = st.sampled_from([0, 1, 2, 3, 4, 4, 4, 5]), st.integers(0, 50)
CALL = st.tuples(st.just("call"), TASK, st.integers(-1, 1), st.integers(1, LARGEST))
END = st.tuples(st.sampled_from(["settle", "withdraw"]), WHICH)
TIME = st.tuples(st.just("time"), st.integers(0, 40))


class Watched(Endpoint):
    """Looks over its own shoulder whenever it gives somebody a turn."""

    def next_ready(self, now: float) -> Request | None:
        ready, usual = set(self._ready.calls), self._call_seconds or 0.0
        moments = {request: self._start_by(request, None) for request in ready}
        chosen = super().next_ready(now)
        if chosen is None:
            return None
        for other in ready - {chosen}:
            if self._waiting[other][0].end == INFINITY:
                assert moments[other] == other.queue.arrived + PATIENCE
            if moments[other] <= now + usual:  # else it would be late: who goes first has to start before it
                assert moments[chosen] <= moments[other]
        self.ready = ready
        return chosen

    def started(self, running: Running) -> None:
        first = running.request
        behind = [other for other in self._waiting if other.task is first.task and other is not first]
        assert all(place(first) < place(other) for other in behind)
        super().started(running)


class Counted(Watched):
    """Counts the tokens of each key while it always has somebody ready, against each other such key."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ready: set[Request] = set()
        self.got: dict[tuple[str, str], Counter[str]] = {}
        self.most = self.largest = 0

    def started(self, running: Running) -> None:
        super().started(running)
        chosen = running.request
        self.largest = max(self.largest, running.expected.tokens)
        keys = {request.task.key for request in self.ready}
        pairs = [(a, b) for a in keys for b in keys if a < b]
        self.got = {pair: self.got.get(pair, Counter()) for pair in pairs}
        for pair, tokens in self.got.items():
            if chosen.task.key in pair:
                tokens[chosen.task.key] += running.expected.tokens
                self.most = max(self.most, abs(tokens[pair[0]] - tokens[pair[1]]))


class Door:
    """a dispatcher with tasks that have one endpoint in common: two keys with two tasks each, one with a
    token cap and one with a deadline.
    """

    def __init__(self, endpoint: Endpoint, *, plain: bool = False) -> None:
        self.endpoint, self.now = endpoint, 0.0
        self.dispatcher = Dispatcher()
        self.requests: list[Request] = []
        self.withdrawn: set[Request] = set()
        self.tight, self.late = (None, None) if plain else (4, 5)
        self.tasks = [self.state(i) for i in range(6)]

    def state(self, number: int) -> TaskState:
        caps: dict[str, Any] = {"tokens": 100} if number == self.tight else {}
        caps |= {"seconds": 150.0} if number == self.late else {}
        account = self.dispatcher.ledger.open(f"{number}", now=0.0, **caps)
        state = build_task_state(f"{number}", account, Uniform(), final_solution=16, key="abcabc"[number])
        self.dispatcher.open(state, 0.0, self.endpoint)
        return state

    def call(self, task: int, priority: int, solution: int) -> None:
        request = build_request(
            self.tasks[task],
            CallSize(prompt=10, fresh=10, thinking=0, solution=solution, close=1),
            ModelFacts("", CURVES, self.endpoint.latency, self.endpoint.usage_stats),
            CallTerms(priority=priority, on_exhausted="wait"),
            endpoint=self.endpoint,
        )
        self.requests.append(request)
        self.dispatcher.submit(request, self.now)
        self.dispatcher.run_pass(request.task.account, self.now)

    @property
    def waiting(self) -> list[Request]:
        return [r for r in self.requests if r.outcome is None]

    @property
    def running(self) -> list[Running]:
        outcomes = [r.outcome for r in self.requests]
        return [o for o in outcomes if isinstance(o, Running) and not o.done]

    def settle(self, which: int) -> None:
        if running := self.running:
            one = running[which % len(running)]
            self.dispatcher.settle(one, Amount(1 + which % one.hold.amount.tokens), self.now)

    def withdraw(self, which: int) -> None:
        if live := [*self.waiting, *(running.request for running in self.running)]:
            gone = live[which % len(live)]
            self.dispatcher.withdraw(gone, self.now)
            self.withdrawn.add(gone)

    def time(self, seconds: float) -> None:
        """Passes; whoever wants to be asked again is."""
        self.now += seconds
        for state in self.tasks:
            self.dispatcher.run_pass(state.account, self.now)

    def check(self, slots: int) -> None:
        """What holds after every step."""
        self.dispatcher.ledger.check()
        assert set(self.endpoint.running) == {running.hold.id for running in self.running}
        assert len(self.running) <= slots
        if len(self.running) < slots:  # a free slot: who waits waits for tokens
            assert {r.task.name for r in self.waiting} <= {f"{self.tight}"}
        assert self.withdrawn.isdisjoint(self.waiting)

    def drain(self) -> None:
        """Every running call ends, until nobody runs or waits."""
        for _ in range(2 * len(self.requests)):
            self.settle(0)
            self.time(0.1)


@given(st.integers(1, 3), st.lists(st.one_of(CALL, CALL, END, TIME), max_size=60))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_nothing_waits_for_nothing_and_nothing_is_lost(slots: int, steps: list[Any]) -> None:
    """Slots are kept, and kept busy; whoever waits too long, and within a task whoever comes first, goes
    first; calls that wait for tokens come back; when all is over, each call had one end.
    """
    door = Door(Watched(Latency(), UsageStats(), timing=Timing(), max_running=slots))
    for what, *more in steps:
        getattr(door, what)(*more)
        door.check(slots)
    door.drain()
    door.check(slots)
    assert door.waiting == door.running == []
    ends = Counter(type(request.outcome).__name__ for request in door.requests)
    assert set(ends) <= {"Running", "TaskClosedError", "CapExceededError", "DeadlineError"}
    assert all(request in door.withdrawn for request in door.requests if ended(request) == "TaskClosedError")
    assert {r.task.name for r in door.requests if ended(r) == "CapExceededError"} <= {f"{door.tight}"}
    assert {r.task.name for r in door.requests if ended(r) == "DeadlineError"} <= {f"{door.late}"}
    assert door.endpoint.idle
    assert all(not account.live for account in door.dispatcher.ledger.accounts.values())


@given(
    st.integers(1, 3), st.lists(CALL, min_size=20, max_size=40), st.lists(st.one_of(CALL, END), max_size=60)
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_key_gets_ahead(slots: int, first: list[Any], then: list[Any]) -> None:
    """While two keys always have a call that is ready, what they were granted differs by at most two of
    the largest calls, however many tasks they have and whatever their priorities (the bound of start-time
    fair queueing).
    """
    endpoint = Counted(Latency(), UsageStats(), timing=Timing(), max_running=slots)
    door = Door(endpoint, plain=True)
    for what, *more in [*first, *then]:
        getattr(door, what)(*more)
    door.check(slots)
    door.drain()
    assert endpoint.most <= 2 * endpoint.largest


def place(request: Request) -> tuple[int, int]:
    return request.terms.priority, request.queue.order


def ended(request: Request) -> str:
    return type(request.outcome).__name__
