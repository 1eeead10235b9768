"""A call that asks the dispatcher for tokens (`Request`), and a call that was granted (`Running`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from elastic_agent.errors import EndpointBusyError
from elastic_agent.usage import Usage, worst_input

from ..estimates.online_curves import LearntCurves, Seen
from ..estimates.success_curve import Curve, prior
from ..estimates.workload import MIN_SOLUTION
from ..latency.slack import RemainingWork, Slot
from ..ledger.accounts import Hold
from ..ledger.amounts import Amount
from .call_terms import CallSize, CallTerms, ModelFacts
from .grant import Grant
from .task_state import TaskState


class CallQueue(Protocol):
    """Where calls of one model wait for their turn: `queueing.endpoint.Endpoint`, seen from a request."""

    def is_limited(self, request: Request) -> bool: ...
    def full(self, key: str) -> EndpointBusyError | None: ...
    def enter(self, request: Request, end: float, span: float) -> None: ...
    def leave(self, request: Request) -> None: ...
    def mark_ready(self, request: Request) -> None: ...
    def mark_blocked(self, request: Request) -> None: ...
    def next_ready(self, now: float) -> Request | None: ...
    def look_again(self, request: Request, now: float) -> float: ...
    def started(self, running: Running) -> None: ...
    def ended(self, running: Running, now: float) -> None: ...
    def update_preemption(self) -> None: ...
    @property
    def queue(self) -> int: ...
    @property
    def idle(self) -> bool: ...


@dataclass(slots=True, eq=False)
class QueueState:
    """A request while it waits.

    Attributes:
        order: its place in the order of arrival, among the calls of all tasks.
        arrived: the moment.
        retry_at: when to decide again if nothing else happens.
        made_room: running calls have been looked at for it, whether they could do with less.
    """

    order: int = 0
    arrived: float = 0.0
    retry_at: float | None = None
    made_room: bool = False


@dataclass(slots=True, eq=False)
class Request:
    """A call that asks for tokens.

    Attributes:
        endpoint: where it will run; None: nobody counts the calls there.
        enclosing_holds: hold ids of calls that can't end before this one does (their consumer waits for it).
        on_outcome: called when `outcome` is there, under the ledger's lock: it must only pass it on.
        on_reduced: called once, while it runs, when its thinking limit is lower (`Running.reduced_to`); as
            `on_outcome`. None: nobody can steer it.
        number: the call's number in its task, from 1; 0 until it is queued.
        declared: its task had announced it.
        curve: its kind's, as of when it was queued.
        outcome: None: it waits.
    """

    task: TaskState
    size: CallSize
    model: ModelFacts
    terms: CallTerms
    endpoint: CallQueue | None = None
    enclosing_holds: frozenset[str] = frozenset()
    on_outcome: Callable[[], None] = lambda: None
    on_reduced: Callable[[], None] | None = None
    number: int = 0
    declared: bool = False
    curve: Curve = field(default_factory=prior)
    queue: QueueState = field(default_factory=QueueState)
    outcome: Outcome | None = None

    def worst(self, thinking: int, solution: int, prompt: int | None = None) -> Amount:
        """The most that a call with this budget (and prompt) can use: what a hold for it takes."""
        size, price, sampled = self.size, self.model.price, thinking + solution
        prompt, probes = size.prompt if prompt is None else prompt, size.probes
        if probes is not None:
            sampled += probes.generated(thinking)
        if price is None:
            return Amount(sampled + size.close)
        read = size.read + worst_input(prompt, thinking, size.close)
        if probes is not None:
            read += probes.read(prompt, thinking, size.close)
        return Amount(sampled + size.close, price.bound(read, sampled))

    def least_solution(self, final_size: int) -> int:
        """The smallest solution that is worth a call; a final answer takes what was reserved for it.

        Args:
            final_size: solution tokens of its task's final answer, as far as known.
        """
        least = min(self.size.solution, MIN_SOLUTION)
        return min(least, final_size) if self.terms.final else least


def build_request(
    task: TaskState,
    size: CallSize,
    model: ModelFacts,
    terms: CallTerms,
    *,
    endpoint: CallQueue | None = None,
    enclosing_holds: frozenset[str] = frozenset(),
    on_reduced: Callable[[], None] | None = None,
    before: Request | None = None,
) -> Request:
    """A call's request to its dispatcher.

    Args:
        before: an earlier request of the same call, which now asks once more: it keeps its number.
    """
    if before is None:
        return Request(task, size, model, terms, endpoint, enclosing_holds, on_reduced=on_reduced)
    size = replace(size, fresh=before.size.fresh)
    request = Request(task, size, model, terms, endpoint, enclosing_holds, on_reduced=on_reduced)
    request.number, request.declared = before.number, before.declared
    return request


@dataclass(slots=True, eq=False)
class Running:
    """A granted call until it is settled.

    Attributes:
        grant: what it may use by now.
        hold: its first hold.
        expected: what it will probably use of its holds.
        rest: what happens in time after its thinking.
        reduced_to: a lower thinking limit, for one that came after it; what it had thought by then stays.
        taught: what `LearntCurves` wants back with its user's feedback.
        slot: its place on the endpoint.
        extensions: holds that it was given while it thought.
        read: input tokens of its thinking passes but the last.
        paced: what the pool was told that it spends.
        success_chance: its part of the chance of its tasks (`TaskState.chance`).
    """

    request: Request
    grant: Grant
    hold: Hold
    expected: Amount
    rest: RemainingWork
    started: float
    done: bool = False
    reduced_to: int | None = None
    taught: Seen | None = None
    slot: Slot = field(default_factory=Slot)
    extensions: list[Hold] = field(default_factory=list)
    read: int = 0
    paced: float = 0.0
    success_chance: float = 1.0

    @property
    def limit(self) -> int:
        """Thinking tokens that it may use by now."""
        return (self.grant.budget.thinking or 0) if self.reduced_to is None else self.reduced_to

    @property
    def holds(self) -> tuple[Hold, ...]:
        """All of them."""
        return (self.hold, *self.extensions)

    @property
    def held(self) -> Amount:
        """What they hold together."""
        return self.grant.held

    @property
    def refund(self) -> Amount:
        """What came back once it was over; below zero where more was served than asked for."""
        return sum([hold.refund for hold in self.extensions], self.hold.refund)

    def record_usage(self, usage: Usage) -> None:
        """What this call was like, for the plans of the next ones; once it has brought an answer."""
        request, kind, model = self.request, self.request.terms.kind, self.request.model
        said = request.curve.solution_at(self.limit)
        said = None if said is None else min(said, self.grant.budget.solution)
        model.usage_stats.record(kind, request.size.prompt, usage.solution, said)
        if isinstance(model.curves, LearntCurves):
            cut = usage.forced > 0
            limit = min(usage.thinking, self.limit) if cut else self.limit
            self.taught = model.curves.record_call(kind, limit, usage.thinking, cut, usage.solution)

    def record_feedback(self, right: bool) -> None:
        """Whether its answer was right: what nobody but its user can know."""
        curves = self.request.model.curves
        if isinstance(curves, LearntCurves) and self.taught is not None:
            curves.record_feedback(self.request.terms.kind, self.taught, right)


Outcome = Running | Exception
