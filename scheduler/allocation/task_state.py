"""A task as the dispatcher knows it. Written by `dispatch` alone; a decision reads a copy (`snapshot`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from elastic_agent.errors import Binding

from ..estimates.agent_history import History
from ..estimates.workload import MIN_SOLUTION, Forecast
from ..ledger.accounts import Account
from ..ledger.amounts import NOTHING, Amount
from ..ledger.binding import binding
from ..ledger.prices import Price
from ..policies.protocol import AllocationPolicy


class FinalAnswer(NamedTuple):
    """What is known of a task's final answer; a new value takes its place when more is known.

    Attributes:
        size: solution tokens that it will probably need; `given`, if the task's user has said.
        given: solution tokens that the task's user wants kept for it (`final_solution=`); None: not said.
        first_solution: the limit that the first call here or below asked for; it needs no more than that.
        need: what has to be held for it.
        basis: size, prompt, close and price from which `need` was worked out.
    """

    size: int = MIN_SOLUTION
    given: int | None = None
    first_solution: int | None = None
    need: Amount = NOTHING
    basis: tuple[int, int, int, Price | None] | None = None

    @classmethod
    def before_calls(cls, given: int | None) -> FinalAnswer:
        """What is known before the task's first call."""
        return cls(MIN_SOLUTION if given is None else given, given)


class LatestAnswer(NamedTuple):
    """The latest answer of a task: its solution tokens (what was asked for, if it was cut)."""

    tokens: int
    final: bool


@dataclass(slots=True, eq=False)
class TaskStatus:
    """How far a task is.

    Attributes:
        calls: how many it has made, waiting ones included.
        admitted: a call has been granted: from here on the task must get its answer.
        answered: it has an answer: its final call's, or that of the last call that fitted.
        latest_answer: None: no call of it has brought one.
        cut_short: a call of it, or of a task below it, was refused.
        closing: it takes no more calls.
    """

    calls: int = 0
    admitted: bool = False
    answered: bool = False
    latest_answer: LatestAnswer | None = None
    cut_short: bool = False
    closing: bool = False


@dataclass(slots=True, eq=False)
class Listener:
    """Who hears of a task's events.

    Attributes:
        emit: called with every event; None: nobody listens.
        task_id: the task's number on its dispatcher, from 1: names need not differ.
        zero: when the outermost task of the tree was opened; events count from there.
    """

    emit: Callable[[dict[str, Any]], None] | None = None
    task_id: int = 0
    zero: float = 0.0


@dataclass(slots=True, eq=False)
class TaskState:
    """What the dispatcher knows of one task.

    Attributes:
        final_answer: what is known of it by now.
        reserving: tokens are kept for the final answer. Not while a call runs that took them, nor once the
            final answer is given.
        largest_prompt: the largest prompt seen, in tokens: the measure of the final one.
        expected_refund: what the running calls of this subtree are expected to give back.
        chance: how likely all calls that it has made are right, by their curves; kept where there is a pool.
        key: whose it is: endpoints are shared fairly among keys.
        value: what its success is worth, beside that of other tasks.
        parallel: kinds of declared calls that will run side by side.
        lineage: this task and those around it.
    """

    name: str
    account: Account
    forecast: Forecast
    policy: AllocationPolicy
    parent: TaskState | None = None
    final_answer: FinalAnswer = field(default_factory=FinalAnswer)
    reserving: bool = True
    largest_prompt: int = 0
    expected_refund: Amount = NOTHING
    chance: float = 1.0
    key: str = ""
    value: float = 1.0
    parallel: frozenset[str] = frozenset()
    status: TaskStatus = field(default_factory=TaskStatus)
    listener: Listener = field(default_factory=Listener)
    lineage: tuple[TaskState, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.lineage = (self, *(self.parent.lineage if self.parent is not None else ()))

    @property
    def closed(self) -> bool:
        """It takes no more calls, or has ended."""
        return self.status.closing or self.account.closed

    def binding(self, unit: str, now: float) -> Binding | None:
        """The account that binds a call of this task; see `ledger.binding`."""
        return binding(self.account.path, {task.account.id for task in self.lineage}, unit, now)

    def teach(self) -> None:
        """It is finished: later tasks of its agent are expected to be like it."""
        past, answer = self.forecast.past, self.status.latest_answer
        if past is not None and not self.status.cut_short:
            past.record(self.forecast.made, None if answer is None else answer.tokens)


def build_task_state(
    name: str,
    account: Account,
    policy: AllocationPolicy,
    *,
    parent: TaskState | None = None,
    past: History | None = None,
    now: float = 0.0,
    key: str | None = None,
    value: float | None = None,
    final_solution: int | None = None,
    parallel: Iterable[str] = (),
    emit: Callable[[dict[str, Any]], None] | None = None,
) -> TaskState:
    """The state of a task that opens now; what it doesn't say is as of the task around it.

    Args:
        past: what is known of its agent.
        key, value: None: those of `parent`; without one, a key of its own, and 1.
        final_solution: solution tokens to keep for the final answer; None: what it will probably need.
    """
    if parent is not None:
        key, value = key or parent.key, value or parent.value
    return TaskState(
        name,
        account,
        Forecast(None if parent is None else parent.forecast, past=past),
        policy,
        parent,
        FinalAnswer.before_calls(final_solution),
        key=key or account.id,
        value=value or 1.0,
        parallel=frozenset(parallel),
        listener=Listener(emit, zero=now if parent is None else parent.listener.zero),
    )
