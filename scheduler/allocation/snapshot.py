"""What one decision rests on, copied from the ledger and the tasks: frozen values, read in one place.

A decision never looks at the ledger or at a task's state: it looks at a `Snapshot`. What would be decided if
something were different is asked with a changed copy (`Snapshot.as_if_waiting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..estimates.workload import CallsToCome
from ..latency.model import Speed
from ..ledger.accounts import Account
from ..ledger.amounts import NOTHING, Amount
from ..policies.pacing import Pacing
from .request import Request, Running
from .task_state import FinalAnswer, TaskState


class Blocked(NamedTuple):
    """Live holds whose consumer waits for a call in the queue: what they hold, and how many they are."""

    held: Amount
    holds: int


class AccountView(NamedTuple):
    """One account of the path; fields have the names of `Account`'s.

    Attributes:
        live: how many live holds the account's subtree has.
        blocked: the live holds that can't give anything back; None: all can.
    """

    id: str
    tokens: int | None
    nano: int | None
    seconds: float | None
    deadline: float
    spent: Amount
    held: Amount
    reserved: Amount
    reserve: Amount
    reserved_seconds: float
    live: int
    blocked: Blocked | None = None

    @property
    def free(self) -> Amount:
        """What is neither spent nor held, by unit; a unit without a cap counts from 0."""
        return Amount(
            (self.tokens or 0) - self.spent.tokens - self.held.tokens,
            (self.nano or 0) - self.spent.nano - self.held.nano,
        )

    def covers(self, amount: Amount, need: Amount) -> bool:
        """Whether an amount covers the need, in the units that this account caps."""
        return (self.tokens is None or amount.tokens >= need.tokens) and (
            self.nano is None or amount.nano >= need.nano
        )


class TaskView(NamedTuple):
    """One task of the lineage; fields have the names of `TaskState`'s.

    Attributes:
        calls: how many wait, run and are still to come, by kind.
        thinking_price: what a thinking token costs, as a share of the task's success; 0 without a pool.
    """

    name: str
    calls: CallsToCome
    reserving: bool
    final_answer: FinalAnswer
    largest_prompt: int
    expected_refund: Amount
    chance: float
    thinking_price: float


class Snapshot(NamedTuple):
    """What is known when a call is decided.

    Attributes:
        request: the call. Its terms, size and model are read here; its task is read from `tasks`.
        now: the moment.
        speed: the endpoint's, at this moment.
        span: how long its task may take in all, in seconds.
        accounts: the path: the task's account and those above it.
        tasks: the lineage: the task and those around it; `accounts` begins with the accounts of these.
        holds: what the call holds already, where a running one is decided on once more.
    """

    request: Request
    now: float
    speed: Speed | None
    span: float
    accounts: tuple[AccountView, ...]
    tasks: tuple[TaskView, ...]
    holds: Amount = NOTHING

    def as_if_waiting(self, asks: Request, running: Running, more: Amount) -> Snapshot:
        """What would be known if a running call had not been granted yet, and gave up what it holds.

        Args:
            asks: the call as it would ask now.
            more: what the call has used beyond what such a call is expected to use.
        """
        back = running.held - running.expected + more
        tasks = [
            task._replace(
                calls=task.calls.with_one_waiting_again(asks.terms.kind),
                expected_refund=task.expected_refund - back,
                chance=task.chance / running.success_chance,
            )
            for task in self.tasks
        ]
        return self._replace(request=asks, tasks=tuple(tasks), holds=running.held)


def take_snapshot(
    request: Request, now: float, pacing: Pacing | None = None, blocked: Sequence[Running] = ()
) -> Snapshot:
    """A snapshot for the decision on a call.

    Args:
        pacing: the price of a pool that all tasks share; None: there is none.
        blocked: running calls whose consumer waits for a call in the queue.
    """
    state, speed = request.task, request.model.latency.speed()
    accounts = tuple(map(_account, state.account.path))
    if blocked:
        held = _held_by(blocked)
        accounts = tuple([one._replace(blocked=held[one.id]) if one.id in held else one for one in accounts])
    if pacing is None:
        tasks = tuple(map(view_of, state.lineage))
    else:
        top = state.lineage[-1]
        prices = [pacing.price_for(request.model.price, top, one.value) for one in state.lineage]
        tasks = tuple([view_of(one, price) for one, price in zip(state.lineage, prices, strict=True)])
    return Snapshot(request, now, speed, state.account.span, accounts, tasks)


def _account(account: Account) -> AccountView:
    return AccountView(
        account.id,
        account.tokens,
        account.nano,
        account.seconds,
        account.deadline,
        account.spent,
        account.held,
        account.reserved,
        account.reserve,
        account.reserved_seconds,
        len(account.live),
    )


def view_of(task: TaskState, thinking_price: float = 0.0) -> TaskView:
    """A task's present state as a value."""
    return TaskView(
        task.name,
        task.forecast.view(),
        task.reserving,
        task.final_answer,
        task.largest_prompt,
        task.expected_refund,
        task.chance,
        thinking_price,
    )


def _held_by(calls: Iterable[Running]) -> dict[str, Blocked]:
    """What these calls hold on each account."""
    found: dict[str, Blocked] = {}
    for running in calls:
        for account in running.request.task.account.path:
            before = found.get(account.id, Blocked(NOTHING, 0))
            found[account.id] = Blocked(before.held + running.held, before.holds + len(running.holds))
    return found
