"""A task's scheduling state, and a call that asks the dispatcher for tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

from elastic_agent.errors import Binding, EndpointBusyError
from elastic_agent.usage import Probes, Usage, worst_input
from elastic_agent.validation import integer, one_of, real

from ..estimates.agent_history import History
from ..estimates.call_stats import UsageStats
from ..estimates.online_curves import Curves, LearntCurves, Seen
from ..estimates.success_curve import Curve, prior
from ..estimates.workload import MIN_SOLUTION, Forecast
from ..latency.model import Speeds
from ..latency.slack import RemainingWork, Slot
from ..ledger.accounts import Account, Hold
from ..ledger.amounts import NOTHING, Amount
from ..ledger.binding import binding
from ..ledger.prices import Price
from ..policies.protocol import AllocationPolicy
from .grant import Grant

OnExhausted = Literal["shrink", "wait", "raise", "answer"]
"""What a call does that the caps can't hold whole: `shrink` waits for refunds while any may come, then takes
less, at last the final answer's reserve; `wait` only waits; `raise` is refused at once; `answer` waits, and
when nothing comes back it is asked for the final answer instead, within the reserve."""

MOST_WORTH = 1e9
"""The largest weight of a call and value of a task."""
MOST_PRIORITY = 2**31 - 1
"""The largest priority of a call; the smallest is its negative."""


def check_terms(weight: object, priority: object, on_exhausted: object) -> tuple[float, int]:
    """The weight and the priority of a call as numbers.

    Raises:
        InvalidValueError: one of the three is of the wrong type or out of range.
    """
    if on_exhausted is not None:
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
    return (
        real("weight", weight, above=True, most=MOST_WORTH),
        integer("priority", priority, least=-MOST_PRIORITY, most=MOST_PRIORITY, of=""),
    )


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


class FinalAnswer(NamedTuple):
    """What is known of a task's final answer; a new value takes its place when more is known.

    Attributes:
        size: solution tokens that it will probably need.
        first_solution: the limit that the first call here or below asked for; it needs no more than that.
        need: what has to be held for it.
        basis: size, prompt, close and price from which that was worked out.
    """

    size: int = MIN_SOLUTION
    first_solution: int | None = None
    need: Amount = NOTHING
    basis: tuple[int, int, int, Price | None] | None = None


UNKNOWN_ANSWER = FinalAnswer()
"""Before the first call."""


@dataclass(slots=True, eq=False)
class TaskState:
    """What the dispatcher knows of one task.

    Attributes:
        final_solution: solution tokens to keep for the final answer; None: what it will probably need.
        final_answer: what is known of it by now.
        largest_prompt: the largest prompt seen, in tokens: the measure of the final one.
        reserving: tokens are kept for the final answer. Not while a call runs that took them, nor once the
            final answer is given.
        answered: the task has an answer: its final call's, or that of the last call that fitted.
        said: solution tokens of its latest answer (what was asked for, if it was cut), and whether that was
            the final one.
        cut_short: a call of it, or of a task below it, was refused.
        admitted: a call has been granted: from here on the task must get its answer.
        closing: it takes no more calls.
        id: its number on its dispatcher, from 1: names need not differ.
        zero: when the outermost task of the tree was opened; events count from there.
        expected_refund: what the running calls of this subtree are expected to give back.
        emit: hears of every decision; None: nobody listens.
        running: its granted calls that are not settled, by hold.
        key: whose it is: endpoints are shared fairly among keys.
        parallel: kinds of declared calls that will run side by side.
        lineage: this task and those around it.
        value: what its success is worth, beside that of other tasks.
        chance: how likely all calls that it has made are right, by their curves; kept where there is a pool.
    """

    name: str
    account: Account
    forecast: Forecast
    policy: AllocationPolicy
    final_solution: int | None = None
    final_answer: FinalAnswer = UNKNOWN_ANSWER
    parent: TaskState | None = None
    largest_prompt: int = 0
    reserving: bool = True
    answered: bool = False
    said: tuple[int, bool] | None = None
    cut_short: bool = False
    admitted: bool = False
    expected_refund: Amount = NOTHING
    calls: int = 0
    closing: bool = False
    id: int = 0
    zero: float = 0.0
    emit: Callable[[dict[str, Any]], None] | None = None
    running: dict[str, Running] = field(default_factory=dict)
    key: str = ""
    parallel: frozenset[str] = frozenset()
    value: float = 1.0
    chance: float = 1.0
    lineage: tuple[TaskState, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.lineage = (self, *(self.parent.lineage if self.parent is not None else ()))

    @property
    def final_size(self) -> int:
        """Solution tokens of the final answer, as far as known."""
        return self.final_answer.size if self.final_solution is None else self.final_solution

    def binding(self, unit: str, now: float) -> Binding | None:
        """The account that binds a call of this task; see `ledger.binding`."""
        return binding(self.account.path, {task.account.id for task in self.lineage}, unit, now)

    def teach(self) -> None:
        """It is finished: later tasks of its agent are expected to be like it."""
        past = self.forecast.past
        if past is not None and not self.cut_short:
            past.learn(self.forecast.made, None if self.said is None else self.said[0])


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
    """
    if parent is not None:
        key, value = key or parent.key, value or parent.value
    return TaskState(
        name,
        account,
        Forecast(None if parent is None else parent.forecast, past=past),
        policy,
        final_solution=final_solution,
        parent=parent,
        key=key or account.id,
        parallel=frozenset(parallel),
        zero=now if parent is None else parent.zero,
        emit=emit,
        value=value or 1.0,
    )


@dataclass(slots=True, eq=False)
class Request:
    """A call that asks for tokens.

    Attributes:
        fresh: tokens of its prompt that the upstream will probably have to read: all, unless it says that it
            mostly has the prompts of a task's later calls.
        thinking: most thinking tokens it may have: its own limit and the context's.
        enclosing_holds: hold ids of calls that can't end before this one does (their consumer waits for it).
        on_outcome: called when `outcome` is there, under the ledger's lock: it must only pass it on.
        on_reduced: called once, while it runs, when its thinking limit is lower (`Running.reduced_to`); as
            `on_outcome`.
            None: nobody can steer it.
        retry_at: while it waits: when to decide again if nothing else happens.
        made_room: those that run have been looked at for it.
        declared: its task had announced it.
        endpoint: where it will run; None: nobody counts the calls there.
        read: input tokens of passes that it has made already.
        probes: of its answer while it thinks; None: there are none.
        curve: its kind's, as of when it was queued.
    """

    task: TaskState
    kind: str
    prompt: int
    fresh: int
    close: int
    solution: int
    thinking: int
    curves: Curves
    price: Price | None
    latency: Speeds
    usage_stats: UsageStats
    on_outcome: Callable[[], None]
    on_reduced: Callable[[], None] | None = None
    final: bool = False
    weight: float = 1.0
    priority: int = 0
    on_exhausted: OnExhausted = "shrink"
    enclosing_holds: frozenset[str] = frozenset()
    model: str = ""
    label: str | None = None
    number: int = 0
    order: int = 0
    arrived: float = 0.0
    retry_at: float | None = None
    made_room: bool = False
    declared: bool = False
    endpoint: CallQueue | None = None
    read: int = 0
    probes: Probes | None = None
    curve: Curve = field(default_factory=prior)
    outcome: Outcome | None = None

    def worst(self, thinking: int, solution: int, prompt: int | None = None) -> Amount:
        """The most that a call with this budget (and prompt) can use: what a hold for it takes."""
        sampled, prompt = thinking + solution, self.prompt if prompt is None else prompt
        if self.probes is not None:
            sampled += self.probes.generated(thinking)
        if self.price is None:
            return Amount(sampled + self.close)
        read = self.read + worst_input(prompt, thinking, self.close)
        if self.probes is not None:
            read += self.probes.read(prompt, thinking, self.close)
        return Amount(sampled + self.close, self.price.bound(read, sampled))

    def least_solution(self, final_size: int | None = None) -> int:
        """The smallest solution that is worth a call; a final answer takes what was reserved for it.

        Args:
            final_size: solution tokens of the final answer, as far as known; None: what its task says.
        """
        least = min(self.solution, MIN_SOLUTION)
        if not self.final:
            return least
        return min(least, self.task.final_size if final_size is None else final_size)


@dataclass(frozen=True, slots=True)
class CallTerms:
    """What a user says of a call, beside its prompt and its limits: the arguments of `Task.call`.

    Raises:
        InvalidValueError: one of them is of the wrong type or out of range.
    """

    kind: str = "call"
    final: bool = False
    weight: float = 1.0
    priority: int = 0
    on_exhausted: OnExhausted = "shrink"
    label: str | None = None

    def __post_init__(self) -> None:
        weight, priority = check_terms(self.weight, self.priority, self.on_exhausted)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "priority", priority)


@dataclass(frozen=True, slots=True)
class CallSize:
    """The tokens of a call: `thinking` and `solution` are the most that it may have; see `Request`."""

    prompt: int
    thinking: int
    solution: int
    close: int = 0
    fresh: int | None = None
    probes: Probes | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of the model that a call goes to; see `Request`."""

    name: str
    curves: Curves
    latency: Speeds
    usage_stats: UsageStats
    price: Price | None = None
    endpoint: CallQueue | None = None


def build_request(
    task: TaskState,
    size: CallSize,
    model: ModelFacts,
    terms: CallTerms,
    *,
    enclosing_holds: frozenset[str] = frozenset(),
    on_reduced: Callable[[], None] | None = None,
    before: Request | None = None,
) -> Request:
    """A call's request to its dispatcher.

    Args:
        before: an earlier request of the same call, which now asks once more: it keeps its number.
    """
    fresh = size.prompt if size.fresh is None else size.fresh
    request = Request(
        task=task,
        kind=terms.kind,
        prompt=size.prompt,
        fresh=fresh if before is None else before.fresh,
        close=size.close,
        solution=size.solution,
        thinking=size.thinking,
        curves=model.curves,
        price=model.price,
        latency=model.latency,
        usage_stats=model.usage_stats,
        on_outcome=lambda: None,
        on_reduced=on_reduced,
        final=terms.final,
        weight=terms.weight,
        priority=terms.priority,
        on_exhausted=terms.on_exhausted,
        enclosing_holds=enclosing_holds,
        model=model.name,
        label=terms.label,
        endpoint=model.endpoint,
        probes=size.probes,
    )
    if before is not None:
        request.number, request.declared = before.number, before.declared
    return request


@dataclass(slots=True, eq=False)
class Running:
    """A granted call until it is settled.

    Attributes:
        grant: what it may use by now.
        reduced_to: a lower thinking limit, for one that came after it; what it had thought by then stays.
        hold: its first hold.
        extensions: those that it was given while it thought.
        expected: what it will probably use of its holds.
        read: input tokens of its thinking passes but the last.
        rest: what happens in time after its thinking.
        slot: its place on the endpoint.
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
        return sum([hold.amount for hold in self.extensions], self.hold.amount)

    @property
    def refund(self) -> Amount:
        """What came back once it was over; below zero where more was served than asked for."""
        return sum([hold.refund for hold in self.extensions], self.hold.refund)

    def record_usage(self, usage: Usage) -> None:
        """What this call was like, for the plans of the next ones; once it has brought an answer."""
        request, budget = self.request, self.grant.budget
        said = request.curve.solution_at(self.limit)
        said = None if said is None else min(said, budget.solution)
        request.usage_stats.record(request.kind, request.prompt, usage.solution, said)
        if isinstance(request.curves, LearntCurves):
            cut = usage.forced > 0
            limit = min(usage.thinking, self.limit) if cut else self.limit
            self.taught = request.curves.record_call(request.kind, limit, usage.thinking, cut, usage.solution)

    def record_feedback(self, right: bool) -> None:
        """Whether its answer was right: what nobody but its user can know."""
        curves = self.request.curves
        if isinstance(curves, LearntCurves) and self.taught is not None:
            curves.record_feedback(self.request.kind, self.taught, right)


Outcome = Running | Exception
