"""What a step of one call or task frees is handed out in a pass that follows, and the log says when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from elastic_agent.scheduler.allocation.call_terms import CallSize, CallTerms, ModelFacts
from elastic_agent.scheduler.allocation.request import Request, Running, build_request
from elastic_agent.scheduler.allocation.task_state import TaskState, build_task_state
from elastic_agent.scheduler.analysis.replay import replay
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.call_stats import UsageStats
from elastic_agent.scheduler.estimates.curve_files import load
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.ledger.accounts import Account
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.policies.simple import Uniform
from elastic_agent.scheduler.runlog.events import RunLog

MODEL = "e1-tiny"


class TwoTasks:
    """A key with 100 tokens; one task's call holds most of them, another task's call waits for them.

    Passes that are asked for are noted, and not run.
    """

    def __init__(self, log: RunLog | None = None) -> None:
        self.dispatcher = Dispatcher(files=[] if log is None else [log])
        self.asked: list[Account] = []
        self.dispatcher.request_pass = lambda account, now: self.asked.append(account)
        latency = self.dispatcher.record.watched(Latency(), MODEL)
        curves = load(MODEL)
        self.dispatcher.record.curves(MODEL, curves)
        self._model, self._log = ModelFacts(MODEL, curves, latency, UsageStats()), log
        key = self.state("key", None, tokens=100)
        self.first, self.second = self.state("first", key), self.state("second", key)
        running = self.call(self.first).outcome
        assert isinstance(running, Running)
        self.running, self.waiting = running, self.call(self.second)
        assert self.waiting.outcome is None

    def state(self, name: str, parent: TaskState | None, tokens: int | None = None) -> TaskState:
        above = None if parent is None else parent.account
        account = self.dispatcher.ledger.open(name, parent=above, tokens=tokens, now=0.0)
        state = build_task_state(name, account, Uniform(), parent=parent, final_solution=2, emit=self._log)
        self.dispatcher.open(state, 0.0, agent=None, started="")
        return state

    def call(self, state: TaskState) -> Request:
        size = CallSize(prompt=10, fresh=10, thinking=0, solution=70, close=1)
        request = build_request(state, size, self._model, CallTerms(on_exhausted="wait"))
        self.dispatcher.submit(request, 1.0)
        self.dispatcher.run_pass(state.account, 1.0)
        return request


STEPS: dict[str, tuple[Callable[[TwoTasks], None], bool]] = {
    "settle": (lambda both: both.dispatcher.settle(both.running, Amount(5), 2.0), True),
    "expire": (lambda both: both.dispatcher.expire(both.running, 2.0), False),
    "close": (lambda both: both.dispatcher.close(both.first, 2.0), False),
    "expect": (lambda both: both.dispatcher.expect(both.first, {"call": 1}, 2.0), False),
}
"""By name: a step, and whether the waiting call has room afterwards."""


@pytest.mark.parametrize("name", STEPS)
def test_a_step_decides_nothing_for_other_calls(name: str) -> None:
    """It asks for one pass, and the waiting call is decided on in that."""
    both = TwoTasks()
    step, has_room = STEPS[name]
    step(both)
    assert both.waiting.outcome is None
    (account,) = both.asked
    both.dispatcher.run_pass(account, 3.0)
    assert isinstance(both.waiting.outcome, Running) is has_room


def test_a_task_that_ends_wakes_the_calls_that_wait_above_it() -> None:
    """The task's own account is gone when the pass runs: the pass is for the account above."""
    both = TwoTasks()
    both.dispatcher.settle(both.running, Amount(5), 2.0)
    both.asked.clear()
    both.dispatcher.close(both.first, 2.0)
    (account,) = both.asked
    assert account is both.second.account.parent
    both.dispatcher.run_pass(account, 3.0)
    assert isinstance(both.waiting.outcome, Running)


@pytest.mark.parametrize("name", STEPS)
def test_the_pass_after_a_step_is_in_the_log(name: str, tmp_path: Path) -> None:
    """It stands behind what the step wrote, and a replay runs it there: every line is the same."""
    log = RunLog(tmp_path / "run.jsonl")
    both = TwoTasks(log)
    both.dispatcher.request_pass = both.dispatcher.run_pass  # at once, as without an event loop
    STEPS[name][0](both)
    log.close()
    found = replay(tmp_path / "run.jsonl")
    assert found.difference is None
    events = [event["event"] for event in found.events]
    written = {"settle": "settled", "expire": "settled", "close": "task_closed", "expect": "expected"}[name]
    assert "pass" in events[events.index(written) :]
