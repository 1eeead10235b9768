"""What an endpoint has promised: answers in time. Whether one more can be kept, beside all others.

A task with a deadline is admitted if its answers, and those of all tasks that were admitted before it, can be
in time at the speed that so many calls have. Nothing is promised about thinking. Before the speed is known
everything is admitted.

The least that each task has to do is laid onto the endpoint's slots, by deadline (`feasibility`): as many
slots as are enough. Where the endpoint has more, a running call with a later deadline keeps nobody waiting. A
slowdown like those seen before is taken to end when those ended. Only tasks of later deadlines can be kept
waiting by a new one, so what comes before it is laid once, what comes after twice: without it and with it.
With thousands of promises that has to be quick: what a task still has to do is looked up again only when its
forecast says that something changed, and its seconds are worked out once for all tasks that have the same to
do.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter, itemgetter

from elastic_agent.errors import DeadlineError

from ..allocation.request import Running
from ..allocation.task_state import TaskState
from ..estimates.call_stats import ServiceTimeStats
from ..estimates.workload import FINAL
from ..latency.model import Speed, Speeds
from ..latency.slack import SAFETY, Timing
from .feasibility import Job, Stage, merged, serve

Work = tuple[tuple[tuple[str, int, int], ...], int, int]
"""What a task still has to do: calls by kind, side by side and one after the other; then the final answer's
solution limit, 0 if it was given, and its prompt, as far as the task's calls have shown."""


@dataclass(slots=True, eq=False)
class WorkProfile:
    """Tasks that have the same to do, and the seconds that it takes at the speed in question."""

    work: Work
    users: int = 0
    job: Job = field(init=False)

    def time(self, now: float, speed: Speed, service_times: ServiceTimeStats, scale: float) -> None:
        """Work the seconds out, for a task none of whose calls run."""
        calls, final, prompt = self.work
        stages = [
            Stage(
                width,
                scale * times * speed.answer(service_times.size(kind, final), service_times.prompt(kind)),
            )
            for kind, width, times in calls
        ]
        spare = 0.0
        if final:
            size = math.ceil(service_times.share(FINAL) * final)
            stages.append(Stage(1, scale * speed.answer(size, prompt or service_times.prompt(FINAL))))
            spare = scale * (final - size) * speed.tpot
        self.job = Job(now, merged(stages), spare)


@dataclass(slots=True, eq=False)
class AcceptedDeadline:
    """One task's.

    Attributes:
        shape: what its task still has to do.
        width: calls of it that will be there at once.
    """

    task: TaskState
    end: float
    shape: WorkProfile = field(init=False)
    width: int = 0


class DeadlineAdmission:
    """See the module.

    Args:
        latency, service_times: what is known of the endpoint.
        timing: how careful to be.
        running: its calls; the endpoint keeps them.
        slots: most calls at once; None: no limit, so that nobody keeps anybody waiting.
    """

    def __init__(
        self,
        latency: Speeds,
        service_times: ServiceTimeStats,
        timing: Timing,
        running: Mapping[str, Running],
        slots: int | None,
    ) -> None:
        self._latency, self._service_times, self._timing = latency, service_times, timing
        self._running, self._slots = running, slots
        self._made: list[AcceptedDeadline] = []  # by deadline
        self._of: dict[TaskState, AcceptedDeadline] = {}
        self._shapes: dict[Work, WorkProfile] = {}
        self._changed: dict[AcceptedDeadline, None] = {}
        self._unsized: dict[
            AcceptedDeadline, None
        ] = {}  # their final answer's size comes with their first call
        self._width = 0

    def __len__(self) -> int:
        return len(self._made)

    def accept(self, task: TaskState, end: float, now: float) -> None:
        """Promise a task its answer by `end`.

        Raises:
            DeadlineError: it would be late, or others would: with the seconds that it would need.
        """
        for old in {**self._changed, **self._unsized}:
            self._drop(old)
            self._look(old)
        self._changed.clear()
        promise = AcceptedDeadline(task, end)
        self._look(promise)
        calls, slots = max(1, len(self._running), self._width), self._slots
        if slots is not None:
            top = self._latency.at(slots)
            slots = slots if top is None else min(slots, top.enough or slots)
            calls = min(calls, slots)
        speed = self._latency.at(calls)
        error = None if speed is None else self._refusal(promise, now, speed, slots)
        if error is not None:
            self._drop(promise)
            raise error
        insort(self._made, promise, key=attrgetter("end"))
        self._of[task] = promise
        task.forecast.on_change = partial(self._changed.__setitem__, promise, None)

    def release(self, task: TaskState) -> None:
        """A task has ended."""
        promise = self._of.pop(task, None)
        if promise is not None:
            task.forecast.on_change = None
            self._changed.pop(promise, None)
            self._drop(promise)
            del self._made[self._place(promise)]

    def _look(self, promise: AcceptedDeadline) -> None:
        """At what its task still has to do; it counts from here on."""
        task = promise.task
        work = remaining(task)
        shape = promise.shape = self._shapes.setdefault(work, WorkProfile(work))
        shape.users += 1
        pending, coming = task.forecast.waiting, task.forecast.coming
        promise.width = max(1, pending, *(coming.get(kind, 0) for kind in task.parallel))
        self._width += promise.width
        if task.final_answer.given is None:
            self._unsized[promise] = None

    def _drop(self, promise: AcceptedDeadline) -> None:
        """It counts no more."""
        shape = promise.shape
        shape.users -= 1
        if not shape.users:
            del self._shapes[shape.work]
        self._width -= promise.width
        self._unsized.pop(promise, None)

    def _refusal(
        self, promise: AcceptedDeadline, now: float, present: Speed, slots: int | None
    ) -> DeadlineError | None:
        """The error for a task that can't be promised its answer; `slots`: so many calls at once are enough.

        Where it is known when the present slowdown ends, all is laid out at the speed without it, and each
        deadline stands for the work that gets done until then.
        """
        speed = present.expected()
        for shape in self._shapes.values():
            shape.time(now, speed, self._service_times, self._timing.headroom)
        job, due = promise.shape.job, now + present.fits(promise.end - SAFETY - now)
        if slots is None:
            return None if now + job.alone <= due else self._late(promise, now, job.alone, job, present, None)
        scale, times = self._timing.headroom, self._service_times
        takes = {
            r: scale * seconds_left(times, r, r.slot.decided_at_progress, speed)
            for r in self._running.values()
        }
        first = {r: takes[r] for r in self._overtaken(slots)}
        over = {r: now + seconds for r, seconds in takes.items() if r not in first}
        busy = sorted(over.values())
        before = ([now] * (slots - len(busy)) + busy)[-slots:]
        heapq.heapify(before)
        others = self._jobs(over, first)
        place = bisect_right(self._made, promise.end, key=attrgetter("end"))
        list(serve(others[:place], before))
        beside = before.copy()
        (own,) = serve([job], beside)
        delay = own - before[0]  # no slot, and so nobody behind, is kept longer than this
        later, behind = self._made[place:], others[place:]
        endings = list(serve(behind, before))
        dues = [p.end - SAFETY for p in later]
        if present.left:
            dues = [now + present.fits(due - now) for due in dues]
        hit = None
        if any(was <= by < was + delay for by, was in zip(dues, endings, strict=True)):
            for other, by, was, then in zip(later, dues, endings, serve(behind, beside), strict=False):
                if was <= by < then:
                    hit = other.task
                    break
        if hit is None:
            return None if own <= due else self._late(promise, now, own - now, job, present, None)
        (own,) = serve([job], before)  # after all the others it would be in nobody's way
        return None if own <= due else self._late(promise, now, own - now, job, present, hit)

    def _overtaken(self, slots: int) -> list[Running]:
        """Running calls that more urgent tasks need not wait for: these find a slot beside them.

        That is so while more calls may run than are enough; of the running ones those with the most time.
        """
        if self._slots is None or slots == self._slots:
            return []
        found = [
            (self._of[level].end, running)
            for running in self._running.values()
            for level in running.request.task.lineage
            if level in self._of
        ]
        found.sort(key=itemgetter(0), reverse=True)
        return [running for _, running in found[: max(0, self._slots - len(self._running))]]

    def _jobs(self, over: Mapping[Running, float], first: Mapping[Running, float]) -> list[Job]:
        """What all have to do; those with running calls when these are over.

        Args:
            over: when running calls are over that keep their slots until then.
            first: seconds that the others take; they are served as a part of their tasks.
        """
        jobs = [promise.shape.job for promise in self._made]
        for running, moment in over.items():
            for at in self._places(running):
                jobs[at] = jobs[at]._replace(ready=max(jobs[at].ready, moment))
        stages: dict[int, Stage] = {}
        for running, seconds in first.items():
            for at in self._places(running):
                width, longest = stages.get(at, (0, 0.0))
                stages[at] = Stage(width + 1, max(longest, seconds))
        for at, stage in stages.items():
            jobs[at] = jobs[at]._replace(stages=merged([stage, *jobs[at].stages]))
        return jobs

    def _places(self, running: Running) -> list[int]:
        """Where the promises stand that a running call is for."""
        return [self._place(self._of[level]) for level in running.request.task.lineage if level in self._of]

    def _place(self, promise: AcceptedDeadline) -> int:
        return self._made.index(promise, bisect_left(self._made, promise.end, key=attrgetter("end")))

    def _late(
        self,
        promise: AcceptedDeadline,
        now: float,
        needed: float,
        job: Job,
        speed: Speed,
        hit: TaskState | None,
    ) -> DeadlineError:
        needed, there = speed.takes(needed) + SAFETY, max(0.0, promise.end - now)
        alone = speed.takes(job.alone)
        queue = max(0.0, needed - alone)
        sooner = "" if hit is None else f", sooner {hit.name!r} would miss its own deadline"
        behind = f" and {queue:.3f} s behind {len(self)} admitted tasks{sooner}" if queue > SAFETY else ""
        return DeadlineError(
            f"task {promise.task.name!r}: {there:.3f} s are left and it needs {needed:.3f} s: "
            f"{alone:.3f} s for its answers at {1000 * speed.tpot:.1f} ms a token, as so many calls have "
            f"it{behind}; raise seconds=, lower final_solution= or come back later",
            needed={"seconds": needed},
            available={"seconds": there},
        )


def remaining(task: TaskState) -> Work:
    """Calls that wait, declared ones, the final answer."""
    forecast = task.forecast
    calls = [(kind, count, 1) for kind, count in forecast.pending.items() if kind != FINAL]
    if task.reserving:
        for kind, count in forecast.coming.items():
            if kind != FINAL and count:
                calls.append((kind, count, 1) if kind in task.parallel else (kind, 1, count))
    final = task.reserving or forecast.pending.get(FINAL, 0)
    if not final:
        return tuple(calls), 0, 0
    size = task.final_answer.size
    return tuple(calls), size, rounded(task.largest_prompt + size) if task.largest_prompt else 0


def rounded(prompt: int) -> int:
    """Up to the next eighth of a power of two: so many tasks have the same to do."""
    step = 1 << max(0, prompt.bit_length() - 4)
    return -(-prompt // step) * step


def seconds_left(times: ServiceTimeStats, running: Running, done: int, speed: Speed) -> float:
    """Seconds that a running call with `done` solution tokens still takes if it stops thinking now."""
    request, budget = running.request, running.grant.budget
    return times.rest(request.terms.kind, budget, request.size.prompt, done, speed)
