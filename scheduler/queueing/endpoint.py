"""One model's door: which waiting call goes next, and who may come in. No clock, no IO.

**Slots.** With `max_running` set, so many calls run at once at most, and the others wait without holding
anything: the dispatcher asks whose `next_ready` it is whenever a slot is free, and only then decides on
tokens. A call that the dispatcher makes wait for tokens leaves its turn to the next one until something comes
back in its task. Where fewer calls at once bring nearly as many answers (`Speed.enough`), so many run, each
the faster: a slowdown then finds fewer answers under way. Only a call that has to start now, and has less
time than most of those that run, gets a slot beyond that.

**Order.** Calls that would be late otherwise go first, by the moment at which they have to start. The
others go in turns by key (a task's `key=`, else each outermost task is one), the least served first
(start-time fair queueing); within a key by priority, then by that moment. A call without a deadline has to
start `PATIENCE` seconds after it came, so nothing waits for ever. Calls of one task keep their order of
arrival. A call that is made inside an open one runs beside the limit: the open one can't end, and give its
slot back, before it.

**Making room.** A waiting call's moment is also the moment at which somebody who thinks has to be done:
`update_preemption` says so to the running calls, those first that could be over first, and as late as the
promises allow.

**Promises.** A task with a deadline comes in if it can be promised its answers in time
(`deadline_admission`).
"""

from __future__ import annotations

from collections import Counter

from elastic_agent.errors import EndpointBusyError
from elastic_agent.validation import integer

from ..allocation.demand import Demand, work_after
from ..allocation.request import Request, Running
from ..allocation.snapshot import view_of
from ..allocation.task_state import TaskState
from ..estimates.call_stats import ServiceTimeStats, UsageStats
from ..latency.model import Speed, Speeds
from ..latency.slack import CallWindow, RemainingWork, Timing
from ..ledger.amounts import INFINITY
from .call_order import FEW, PART, CallOrder
from .deadline_admission import DeadlineAdmission, seconds_left
from .feasibility import needs

PATIENCE = 60.0
"""Seconds after which a call without a deadline goes before those that still have time."""


class Endpoint:
    """Calls and promises of one model; changed under the ledger's lock.

    Args:
        latency, usage_stats: what is known of its speed and its calls.
        timing: how careful to be.
        max_running: most calls at once; None: no limit, and no queue.
        max_waiting: most calls that wait. A key that has as many places as are free gets no more, so that
            nobody takes the last one from others. None: no limit.

    Raises:
        ValueError: a limit below 1, or `max_waiting` alone.
    """

    def __init__(
        self,
        latency: Speeds,
        usage_stats: UsageStats,
        *,
        timing: Timing,
        max_running: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        check_limits(max_running, max_waiting)
        self.latency, self.usage_stats = latency, usage_stats
        latency.most = max_running
        self.max_running, self.max_waiting = max_running, max_waiting
        self.running: dict[str, Running] = {}
        self.service_times = ServiceTimeStats(usage_stats)
        self.deadlines = DeadlineAdmission(latency, self.service_times, timing, self.running, max_running)
        self._timing = timing
        self._waiting: dict[
            Request, tuple[CallWindow, RemainingWork]
        ] = {}  # its time, and what has to happen in it
        self._keys: Counter[str] = Counter()  # of those that wait
        self._ready = CallOrder()
        self._parked: set[Request] = set()
        self._needs: list[list[float]] = []  # by slot: when it is needed, the soonest last
        self._changed = 0  # calls that have come, gone or been parked since that was worked out
        self._pressed = False
        self._ends: dict[str, float] = {}  # by hold of a running call: when its task has to be over
        self._usual: float | None = None

    # The queue

    def full(self, key: str) -> EndpointBusyError | None:
        """The error for a call that finds no place to wait, or None."""
        if self.max_running is None or self.max_waiting is None:
            return None
        waiting = len(self._waiting)
        own = self._keys[key]
        free = max(0, self.max_running - len(self.running))  # calls of this very moment that will have a slot
        if waiting < free or max(0, own - free) < self.max_waiting - (waiting - free):
            return None
        seconds = (self._usual or 1.0) / self.max_running
        whose = f"{own} of {waiting} waiting calls are of {key!r}" if own else f"{waiting} calls wait"
        return EndpointBusyError(
            f"{whose}, {self.max_waiting} may (max_waiting=), {self.max_running} run: "
            f"try again in {seconds:.2f} s",
            seconds,
        )

    def is_limited(self, request: Request) -> bool:
        """It has to wait for its turn here."""
        return self.max_running is not None and not request.enclosing_holds

    @property
    def queue(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nobody waits or runs."""
        return not self._waiting and not self.running

    def enter(self, request: Request, end: float, span: float) -> None:
        """A call waits from now on; its task has to be over at `end`, and may take `span` seconds in all."""
        task = view_of(request.task)
        remaining = Demand(request).remaining(task.calls.to_come(request.terms.kind, request.terms.final))
        rest = work_after(request, task, remaining, request.size.solution)
        # If it must, it answers in one pass, the one that reads its prompt.
        rest = rest._replace(prompt=0, fresh=request.size.fresh)
        self._waiting[request] = (CallWindow(request.queue.arrived, end, span), rest)
        self._keys[request.task.key] += 1
        self._changed += 1

    def leave(self, request: Request) -> None:
        """It was granted, refused or withdrawn."""
        if self._waiting.pop(request, None) is not None:
            key = request.task.key
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
            self._changed += 1
        self._ready.discard(request)
        self._parked.discard(request)

    def mark_ready(self, request: Request) -> None:
        """The head of a task's queue can have its turn: it is new, or something has happened in its task."""
        if request in self._parked:
            self._parked.remove(request)
            self._changed += 1
        self._ready.add(request, self._start_by(request, self._enough()[1]))

    def mark_blocked(self, request: Request) -> None:
        """It lacks something: it has no turn before something happens in its task, or on what it lacks."""
        self._ready.discard(request)
        if request in self._waiting and request not in self._parked:
            self._parked.add(request)
            self._changed += 1

    def next_ready(self, now: float) -> Request | None:
        """Whose turn it is, once; None when no slot is free or nobody is ready."""
        if self.max_running is None or len(self.running) >= self.max_running or not self._ready:
            return None
        enough, speed = self._enough()
        self._ready.again(lambda request: self._start_by(request, speed))
        if len(self.running) < enough:
            return self._ready.take(now + (self._usual or 0.0))
        before = self._goes_beyond(enough)
        return self._ready.take_urgent(now + self._soon, lambda r: self._waiting[r][0].end < before)

    def started(self, running: Running) -> None:
        """A call was granted: it has a slot now."""
        self.running[running.hold.id] = running
        waiting = self._waiting.get(running.request)
        if waiting is not None:
            self._ends[running.hold.id] = waiting[0].end
        self.latency.load = len(self.running)
        if self.max_running is not None:
            self._ready.served(running.request.task.key, running.expected.tokens)
            if waiting is not None and self._needs and (soonest := min(self._needs, key=_soonest)):
                soonest.pop()  # it has the slot that was needed first

    def ended(self, running: Running, now: float) -> None:
        """A call has given its slot back."""
        if self.running.pop(running.hold.id, None) is None:
            return
        self._ends.pop(running.hold.id, None)
        self.latency.load = max(1, len(self.running))
        request, budget = running.request, running.grant.budget
        self.service_times.record(
            request.terms.kind,
            running.slot.decided_at_progress,
            budget.solution,
            request.task.final_answer.given,
        )
        took = now - running.started
        self._usual = took if self._usual is None else self._usual + (took - self._usual) / 16

    def update_preemption(self) -> None:
        """Tell running calls until when somebody can wait for their slots.

        Where many wait, what they need is worked out again only when a part of them has changed.
        """
        if self.max_running is None:
            return
        many = len(self._waiting) - len(self._parked)
        enough, speed = self._enough() if many else (0, None)
        if speed is None:
            if self._pressed:
                for running in self.running.values():
                    running.slot.preempt_at = INFINITY
            self._pressed, self._needs = False, []
            return
        if many <= FEW or PART * self._changed >= many or not self._pressed:
            self._changed, self._pressed = 0, True
            starts = [
                (self._start_by(request, speed), speed.answer(rest.solution, request.size.fresh))
                for request, (_, rest) in self._waiting.items()
                if request not in self._parked
            ]
            self._needs = needs(starts, enough)
        moments = sorted(_soonest(slot) for slot in self._needs)
        soonest = sorted(
            self.running.values(),
            key=lambda r: (seconds_left(self.service_times, r, r.slot.progress, speed), r.started),
        )
        for running, moment in zip(soonest, [*moments, *[INFINITY] * len(soonest)], strict=False):
            running.slot.preempt_at = moment

    def _enough(self) -> tuple[int, Speed | None]:
        """How many calls run at once while none is urgent, and the speed of so many."""
        assert self.max_running is not None
        speed = self.latency.at(self.max_running)
        if speed is None or not 0 < speed.enough < self.max_running:
            return self.max_running, speed
        return speed.enough, self.latency.at(speed.enough)

    def _goes_beyond(self, enough: int) -> float:
        """Before which moment a task has to end for its calls to run beside `enough` others.

        More than `enough` calls at once make each other slower. A call that is among the `enough` most urgent
        by deadline may do so to those that are not; any other would only make more urgent ones late.
        """
        ends = sorted(self._ends.get(hold, INFINITY) for hold in self.running)
        return ends[enough - 1]

    @property
    def _soon(self) -> float:
        """Seconds until the next slot is probably free."""
        return (self._usual or 0.0) / max(1, len(self.running))

    def look_again(self, request: Request, now: float) -> float:
        """When a waiting call may have its turn even if no slot is free until then; INFINITY: it can't."""
        enough, speed = self._enough()
        if enough == self.max_running:
            return INFINITY
        moment = self._start_by(request, speed) - self._soon
        return moment if moment > now else INFINITY

    def _start_by(self, request: Request, speed: Speed | None) -> float:
        """When a waiting call has to start for its task to be in time."""
        window, rest = self._waiting[request]
        if window.end == INFINITY:
            return request.queue.arrived + PATIENCE
        return self._timing.think_until(window, rest, speed)

    def admit(self, task: TaskState, end: float, now: float) -> None:
        """Let a task in, and promise it its answers by `end`.

        Raises:
            EndpointBusyError: nobody may join the queue.
            DeadlineError: it would be late, or others would: with the seconds that it would need.
        """
        busy = self.full(task.key)
        if busy is not None:
            raise busy
        if end < INFINITY:
            self.deadlines.accept(task, end, now)

    def release(self, task: TaskState) -> None:
        """A task has ended."""
        self.deadlines.release(task)


def check_limits(max_running: int | None, max_waiting: int | None) -> None:
    """Raise ValueError for limits that make no sense."""
    for name, limit in (("max_running", max_running), ("max_waiting", max_waiting)):
        if limit is not None:
            integer(name, limit, least=1, of="calls")
    if max_waiting is not None and max_running is None:
        raise ValueError("max_waiting needs max_running: without a limit nobody waits")


def _soonest(slot: list[float]) -> float:
    return slot[-1] if slot else INFINITY
