"""What many clients do at once costs each of them the same, however many they are: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from elastic_agent import scheduler
from elastic_agent.scheduler.allocation.call_terms import CallSize, CallTerms, ModelFacts
from elastic_agent.scheduler.allocation.request import Request, Running, build_request
from elastic_agent.scheduler.allocation.task_state import TaskState, build_task_state
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.call_stats import UsageStats
from elastic_agent.scheduler.estimates.curve_files import load
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.latency.slack import Timing
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.policies.simple import Uniform
from elastic_agent.scheduler.queueing.endpoint import Endpoint

CURVES = load("")
PACKAGE = str(Path(scheduler.__file__).parent)
SLOTS = 8
FEW, MANY = 500, 2000


class Crowd:
    """So many calls that wait, each in a task of its own.

    Args:
        one_key: all tasks are below one account, as a gateway's are below their key's.
        turns: they wait for one of an endpoint's slots; else for tokens of that account.
        own: they wait for tokens of their own tasks, which a call of each holds.
        seconds: their tasks have deadlines.
        one_task: all calls are of one task.
    """

    def __init__(
        self,
        many: int,
        *,
        one_key: bool = False,
        turns: bool = True,
        own: bool = False,
        seconds: float | None = None,
        one_task: bool = False,
    ) -> None:
        self.dispatcher, self.now = Dispatcher(), 0.0
        self.endpoint = (
            Endpoint(Latency(), UsageStats(), timing=Timing(), max_running=SLOTS, max_waiting=10 * many)
            if turns
            else None
        )
        self.latency, self.usage_stats = Latency(), UsageStats()
        cap = 60 + 2 * many if not turns and not own else None  # each task keeps 2 for its answer
        self.key = self.dispatcher.ledger.open("key", tokens=cap, now=0.0) if one_key or not turns else None
        self.tasks: list[TaskState] = []
        for number in range(1 if one_task else many):
            caps: dict[str, Any] = {"tokens": 60} if own else {}
            account = self.dispatcher.ledger.open(
                f"{number}", parent=self.key, now=0.0, seconds=seconds, **caps
            )
            state = build_task_state(f"{number}", account, Uniform(), final_solution=1)
            state.reserving = False
            self.dispatcher.open(state, 0.0, self.endpoint if seconds is None else None)
            self.tasks.append(state)
        self.requests: list[Request] = []
        if turns:
            for number in range(SLOTS):
                self.call(self.tasks[number % len(self.tasks)])
        elif own:
            for state in self.tasks:
                self.call(state)
        else:
            self.call(self.tasks[0])
        self.first = len(self.requests)
        self.many = many

    def call(self, state: TaskState) -> None:
        request = build_request(
            state,
            CallSize(prompt=10, fresh=10, thinking=0, solution=50, close=1),
            ModelFacts(
                "",
                CURVES,
                self.endpoint.latency if self.endpoint else self.latency,
                self.endpoint.usage_stats if self.endpoint else self.usage_stats,
            ),
            CallTerms(on_exhausted="wait"),
            endpoint=self.endpoint,
        )
        self.requests.append(request)
        self.dispatcher.submit(request, self.now)
        self.dispatcher.run_pass(state.account, self.now)

    def arrive(self) -> None:
        """All come, one after the other."""
        for number in range(self.many):
            self.now += 1e-4
            self.call(self.tasks[number % len(self.tasks)])
        assert sum(request.outcome is None for request in self.requests) >= 0.99 * self.many

    def leave(self) -> None:
        """All that wait leave, the latest first."""
        for request in reversed(self.requests):
            if request.outcome is None:
                self.dispatcher.withdraw(request, self.now)

    def time_out(self) -> None:
        """Each is asked again by its own timer."""
        for request in list(self.requests):
            if request.outcome is None:
                self.dispatcher.run_pass(request.task.account, self.now)

    def close(self) -> None:
        """All tasks end."""
        for state in self.tasks:
            self.dispatcher.close(state, self.now)

    def serve(self) -> None:
        """Each call that runs is over, until all have been served."""
        while running := list(self.dispatcher.running):
            for one in running:
                self.now += 1e-3
                self.dispatcher.settle(one, Amount(0), self.now)
        assert all(isinstance(request.outcome, Running) for request in self.requests)

    def refuse(self) -> None:
        """What the running calls hold does not come back: all that wait for it are refused."""
        for one in list(self.dispatcher.running):
            self.dispatcher.settle(one, one.held, self.now)
        assert not any(request.outcome is None for request in self.requests)


def steps(work: Callable[[], None]) -> int:
    """Lines of this package that were run: loops inside a comprehension count, too."""
    found = 0

    def line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal found
        found += 1
        return line

    def call(frame: FrameType, event: str, _: object) -> Any:
        return line(frame, event, _) if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return found


CROWDS: dict[str, dict[str, Any]] = {
    "slots": {},
    "slots of one key": {"one_key": True},
    "slots for one task": {"one_task": True},
    "slots in time": {"seconds": 10_000.0},
    "tokens of one key": {"turns": False},
    "tokens of their own": {"turns": False, "own": True},
}


@pytest.mark.parametrize("event", ["arrive", "leave", "time_out", "close", "serve", "refuse"])
@pytest.mark.parametrize("crowd", list(CROWDS))
def test_what_many_do_at_once_is_linear(crowd: str, event: str) -> None:
    """Four times as many calls take about four times as many steps, not sixteen times."""
    if event == "refuse" and "tokens" not in crowd:
        pytest.skip("they wait for slots, which always come back")
    cost = []
    for many in (FEW, MANY):
        found = Crowd(many, **CROWDS[crowd])
        if event != "arrive":
            found.arrive()
        cost.append(steps(getattr(found, event)))
        found.dispatcher.ledger.check()
    assert cost[1] < 1.5 * MANY / FEW * cost[0], f"{cost[0]} steps for {FEW}, {cost[1]} for {MANY}"
