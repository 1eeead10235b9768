"""One model's queue: which waiting call goes next, and which tasks may come in. No clock, no IO.

**Slots.** With `max_running` set, so many calls run at once at most, and the others wait without holding
anything: the dispatcher asks for the `next_ready` call whenever a slot is free, and only then decides on
tokens. A call that must wait for tokens is blocked, and leaves its turn to the next one, until something
comes back in its task. Where fewer calls at once bring nearly as many answers (`Speed.enough`), so many run,
each of them faster: a slowdown then finds fewer answers under way. Only a call that has to start now, and has
less time than most running calls, gets a slot beyond that.

**Order.** Calls that would otherwise be late go first, by the moment at which they have to start. The others
go in turns by key (a task's `key=`; without one, each outermost task is its own), the least served key first
(start-time fair queueing); within a key by priority, then by that moment. A call without a deadline has to
start `PATIENCE` seconds after it came, so no call waits for ever. Calls of one task keep their order of
arrival. A call that is made inside an open call doesn't count in the limit: the open call can't end, and give
its slot back, before it.

**Preemption.** A waiting call has to start by some moment, and by then a running call has to be over.
`update_preemption` tells the running calls to stop thinking early enough: first those that can be over first,
and as late as the deadlines allow.

**Deadlines.** A task with a deadline comes in if its answers can be in time (`deadline_admission`).
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, repeat

from elastic_agent.errors import EndpointBusyError
from elastic_agent.validation import integer

from ..allocation.demand import remaining_demand, work_after
from ..allocation.request import Request, Running
from ..allocation.snapshot import view_of
from ..allocation.task_state import TaskState
from ..estimates.call_stats import ServiceTimeStats, UsageStats
from ..latency.model import Speed, Speeds
from ..latency.slack import CallWindow, RemainingWork, Timing
from ..ledger.amounts import INFINITY
from .call_order import FEW, PART, CallOrder
from .deadline_admission import DeadlineAdmission, seconds_left
from .feasibility import latest_free_times

PATIENCE = 60.0
"""Seconds after which a call without a deadline goes before calls that still have time."""


class Endpoint:
    """The calls and the accepted deadlines of one model; changed under the ledger's lock.

    Args:
        latency, usage_stats: what is known of the model's speed and its calls.
        timing: how careful to be.
        max_running: most calls at once; None: no limit, and no queue.
        max_waiting: most calls that wait; None: no limit. A key with as many waiting calls as there are free
            places gets no more, so that it can't take the last places from other keys.

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
        latency.occupy(1, max_running)
        self.max_running, self.max_waiting = max_running, max_waiting
        self.running: dict[str, Running] = {}
        self.service_times = ServiceTimeStats(usage_stats)
        self.deadlines = DeadlineAdmission(latency, self.service_times, timing, self.running, max_running)
        self._timing = timing
        self._waiting: dict[Request, tuple[CallWindow, RemainingWork]] = {}
        self._keys: Counter[str] = Counter()  # of waiting calls
        self._ready = CallOrder()
        self._blocked: set[Request] = set()
        self._free_times: list[list[float]] = []  # see `latest_free_times`
        self._changed = 0  # calls that came, left or were blocked since `_free_times` was worked out
        self._preempting = False
        self._ends: dict[str, float] = {}  # when the task of a running call has to be over, by hold
        self._call_seconds: float | None = None  # how long calls run, on average

    # The queue

    def full(self, key: str) -> EndpointBusyError | None:
        """The error for a call of this key that finds no place to wait, or None."""
        if self.max_running is None or self.max_waiting is None:
            return None
        waiting = len(self._waiting)
        own = self._keys[key]
        free = max(0, self.max_running - len(self.running))  # so many calls that wait now start at once
        if waiting < free or max(0, own - free) < self.max_waiting - (waiting - free):
            return None
        seconds = (self._call_seconds or 1.0) / self.max_running
        whose = f"{own} of {waiting} waiting calls are of {key!r}" if own else f"{waiting} calls wait"
        return EndpointBusyError(
            f"{whose}, {self.max_waiting} may (max_waiting=), {self.max_running} run: "
            f"try again in {seconds:.2f} s",
            seconds,
        )

    def is_limited(self, request: Request) -> bool:
        """Whether a call has to wait for its turn here."""
        return self.max_running is not None and not request.enclosing_holds

    @property
    def queue(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no call waits or runs."""
        return not self._waiting and not self.running

    def enter(self, request: Request, end: float, span: float) -> None:
        """A call waits from now on; its task has to be over at `end`, and takes at most `span` seconds."""
        task = view_of(request.task)
        remaining = remaining_demand(request, task.calls.to_come(request.terms.kind, request.terms.final))
        rest = work_after(request, task, remaining, request.size.solution)
        # With no time to think, one pass reads the prompt and writes the answer.
        rest = rest._replace(prompt=0, fresh=request.size.fresh)
        self._waiting[request] = (CallWindow(request.queue.arrived, end, span), rest)
        self._keys[request.task.key] += 1
        self._changed += 1

    def leave(self, request: Request) -> None:
        """A call was granted, refused or withdrawn."""
        if self._waiting.pop(request, None) is not None:
            key = request.task.key
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
            self._changed += 1
        self._ready.discard(request)
        self._blocked.discard(request)

    def mark_ready(self, request: Request) -> None:
        """The first call of a task can have its turn: it is new, or something has happened in its task."""
        if request in self._blocked:
            self._blocked.remove(request)
            self._changed += 1
        self._ready.add(request, self._start_by(request, self._enough()[1]))

    def mark_blocked(self, request: Request) -> None:
        """A call has no room on an account: it gets no turn before something happens there or in its task."""
        self._ready.discard(request)
        if request in self._waiting and request not in self._blocked:
            self._blocked.add(request)
            self._changed += 1

    def next_ready(self, now: float) -> Request | None:
        """Take the call whose turn it is; None when no slot is free or no call is ready."""
        if self.max_running is None or len(self.running) >= self.max_running or not self._ready:
            return None
        enough, speed = self._enough()
        self._ready.again(lambda request: self._start_by(request, speed))
        if len(self.running) < enough:
            return self._ready.take(now + (self._call_seconds or 0.0))
        before = self._goes_beyond(enough)
        return self._ready.take_urgent(now + self._soon, lambda r: self._waiting[r][0].end < before)

    def started(self, running: Running) -> None:
        """A call was granted, and has a slot now."""
        self.running[running.hold.id] = running
        waiting = self._waiting.get(running.request)
        if waiting is not None:
            self._ends[running.hold.id] = waiting[0].end
        self.latency.occupy(len(self.running), self.max_running)
        if self.max_running is not None:
            self._ready.served(running.request.task.key, running.expected.tokens)
            if waiting is not None and self._free_times:
                soonest = min(self._free_times, key=_soonest)
                if soonest:
                    soonest.pop()  # the call has taken the slot that was needed first

    def ended(self, running: Running, now: float) -> None:
        """A call has given its slot back."""
        if self.running.pop(running.hold.id, None) is None:
            return
        self._ends.pop(running.hold.id, None)
        self.latency.occupy(max(1, len(self.running)), self.max_running)
        request, budget = running.request, running.grant.budget
        self.service_times.record(
            request.terms.kind,
            running.slot.decided_at_progress,
            budget.solution,
            request.task.final_answer.given,
        )
        took = now - running.started
        self._call_seconds = (
            took if self._call_seconds is None else self._call_seconds + (took - self._call_seconds) / 16
        )

    def update_preemption(self) -> None:
        """Tell the running calls when waiting calls need their slots.

        Where many calls wait, these moments are worked out again only when a part of the calls has changed.
        """
        if self.max_running is None:
            return
        many = len(self._waiting) - len(self._blocked)
        enough, speed = self._enough() if many else (0, None)
        if speed is None:
            if self._preempting:
                for running in self.running.values():
                    running.slot.preempt_at = INFINITY
            self._preempting, self._free_times = False, []
            return
        if many <= FEW or PART * self._changed >= many or not self._preempting:
            self._changed, self._preempting = 0, True
            starts = [
                (self._start_by(request, speed), speed.answer(rest.solution, request.size.fresh))
                for request, (_, rest) in self._waiting.items()
                if request not in self._blocked
            ]
            self._free_times = latest_free_times(starts, enough)
        moments = sorted(map(_soonest, self._free_times))
        first_over = sorted(
            self.running.values(),
            key=lambda r: (seconds_left(self.service_times, r, r.slot.progress, speed), r.started),
        )
        for running, moment in zip(first_over, chain(moments, repeat(INFINITY)), strict=False):
            running.slot.preempt_at = moment

    def _enough(self) -> tuple[int, Speed | None]:
        """How many calls run at once while none is urgent, and the speed of so many calls."""
        assert self.max_running is not None
        speed = self.latency.at(self.max_running)
        if speed is None or not 0 < speed.enough < self.max_running:
            return self.max_running, speed
        return speed.enough, self.latency.at(speed.enough)

    def _goes_beyond(self, enough: int) -> float:
        """Before which moment a task has to end for its calls to run beside `enough` others.

        More than `enough` calls at once slow each other down. Only a call that is among the `enough` most
        urgent by deadline may do this to the less urgent ones.
        """
        ends = sorted(self._ends.get(hold, INFINITY) for hold in self.running)
        return ends[enough - 1]

    @property
    def _soon(self) -> float:
        """Seconds until the next slot is probably free."""
        return (self._call_seconds or 0.0) / max(1, len(self.running))

    def look_again(self, request: Request, now: float) -> float:
        """When a waiting call may get a slot beyond those that are enough; INFINITY: never."""
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
        """Let a task in, and accept its deadline `end`.

        Raises:
            EndpointBusyError: no more calls may wait.
            DeadlineError: the task would be late, or make another one late; with the seconds that it needs.
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
    """Raise ValueError for a limit below 1, or for `max_waiting` alone."""
    for name, limit in (("max_running", max_running), ("max_waiting", max_waiting)):
        if limit is not None:
            integer(name, limit, least=1, of="calls")
    if max_waiting is not None and max_running is None:
        raise ValueError("max_waiting needs max_running: without a limit no call waits")


def _soonest(free_times: list[float]) -> float:
    return free_times[-1] if free_times else INFINITY
