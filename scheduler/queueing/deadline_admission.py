"""Which deadlines are accepted: whether one more answer can be in time, beside all that were accepted before.

A task with a deadline is admitted if its answers, and the answers of all tasks that were admitted before it,
can be in time at the speed that so many calls at once have. The check counts no thinking, since thinking
gives way. Before the speed is known everything is admitted.

The least work of each task is laid onto the endpoint's slots, in order of deadline (`feasibility`). It takes
as many slots as are enough (`Speed.enough`); where the endpoint has more, a running call with a later
deadline delays nobody. A present slowdown is taken to end when earlier slowdowns ended. A new task delays
only tasks of later deadlines, so the work before its deadline is laid out once, and the work after it twice:
without the new task and with it.

There may be thousands of deadlines. So a task's remaining work is looked up again only when its forecast
reports a change, and the seconds are worked out once for all tasks with the same work.
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
"""The remaining work of a task: (kind, calls side by side, calls one after the other) of each kind; the
solution limit of its final answer, 0 once that is given; and the final prompt's tokens, as far as known."""


@dataclass(slots=True, eq=False)
class WorkProfile:
    """The tasks with the same remaining work, and its seconds at the speed in question."""

    work: Work
    users: int = 0
    job: Job = field(init=False)

    def time(self, now: float, speed: Speed, times: ServiceTimeStats, scale: float) -> None:
        """Set `job`: the work in seconds, for a task without running calls."""
        calls, final, prompt = self.work
        stages = [
            Stage(width, scale * count * speed.answer(times.size(kind, final), times.prompt(kind)))
            for kind, width, count in calls
        ]
        spare = 0.0
        if final:
            size = math.ceil(times.share(FINAL) * final)
            stages.append(Stage(1, scale * speed.answer(size, prompt or times.prompt(FINAL))))
            spare = scale * (final - size) * speed.tpot
        self.job = Job(now, merged(stages), spare)


@dataclass(slots=True, eq=False)
class AcceptedDeadline:
    """One task's deadline.

    Attributes:
        profile: the task's remaining work.
        width: how many of its calls will run at once.
    """

    task: TaskState
    end: float
    profile: WorkProfile = field(init=False)
    width: int = 0


_END = attrgetter("end")


class DeadlineAdmission:
    """See the module.

    Args:
        latency, service_times: what is known of the endpoint.
        timing: how careful to be.
        running: the endpoint's calls; the endpoint keeps this mapping.
        slots: most calls at once; None: no limit, and no task delays another.
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
        self._accepted: list[AcceptedDeadline] = []  # by deadline
        self._by_task: dict[TaskState, AcceptedDeadline] = {}
        self._profiles: dict[Work, WorkProfile] = {}
        self._changed: dict[AcceptedDeadline, None] = {}
        self._unsized: dict[AcceptedDeadline, None] = {}  # a first call will say how long the final answer is
        self._width = 0

    def __len__(self) -> int:
        return len(self._accepted)

    def accept(self, task: TaskState, end: float, now: float) -> None:
        """Accept a task's deadline.

        Raises:
            DeadlineError: the task would be late, or make another one late; with the seconds that it needs.
        """
        for old in {**self._changed, **self._unsized}:
            self._uncount(old)
            self._count(old)
        self._changed.clear()
        new = AcceptedDeadline(task, end)
        self._count(new)
        calls, slots = max(1, len(self._running), self._width), self._slots
        if slots is not None:
            top = self._latency.at(slots)
            slots = slots if top is None else min(slots, top.enough or slots)
            calls = min(calls, slots)
        speed = self._latency.at(calls)
        error = None if speed is None else self._refusal(new, now, speed, slots)
        if error is not None:
            self._uncount(new)
            raise error
        insort(self._accepted, new, key=_END)
        self._by_task[task] = new
        task.forecast.on_change = partial(self._changed.__setitem__, new, None)

    def release(self, task: TaskState) -> None:
        """A task has ended: its deadline counts no more."""
        accepted = self._by_task.pop(task, None)
        if accepted is not None:
            task.forecast.on_change = None
            self._changed.pop(accepted, None)
            self._uncount(accepted)
            del self._accepted[self._index(accepted)]

    def _count(self, deadline: AcceptedDeadline) -> None:
        """Look up the remaining work of a deadline's task, and count it."""
        task = deadline.task
        work = remaining(task)
        profile = deadline.profile = self._profiles.setdefault(work, WorkProfile(work))
        profile.users += 1
        waiting, coming = task.forecast.waiting, task.forecast.coming
        deadline.width = max(1, waiting, *(coming.get(kind, 0) for kind in task.parallel))
        self._width += deadline.width
        if task.final_answer.given is None:
            self._unsized[deadline] = None

    def _uncount(self, deadline: AcceptedDeadline) -> None:
        profile = deadline.profile
        profile.users -= 1
        if not profile.users:
            del self._profiles[profile.work]
        self._width -= deadline.width
        self._unsized.pop(deadline, None)

    def _refusal(
        self, new: AcceptedDeadline, now: float, present: Speed, slots: int | None
    ) -> DeadlineError | None:
        """The error for a deadline that can't be accepted; `slots`: so many calls at once are enough.

        Where the end of the present slowdown is known, all work is laid out at the speed without it, and
        each deadline stands for the work that gets done until then (`_due`).
        """
        speed = present.expected()
        for profile in self._profiles.values():
            profile.time(now, speed, self._service_times, self._timing.headroom)
        over, harmed = now + new.profile.job.alone, None
        if slots is not None:
            over, harmed = self._lay_out(new, now, present, slots)
        if over <= _due(new, now, present):
            return None
        return self._late(new, now, over - now, present, harmed)

    def _lay_out(
        self, new: AcceptedDeadline, now: float, present: Speed, slots: int
    ) -> tuple[float, TaskState | None]:
        """When a new task's work is over, and a task that it would make late if it went before that one.

        Where there is such a task, the new one goes after all others.
        """
        jobs, free = self._jobs_and_slots(now, present.expected(), slots)
        place, job = bisect_right(self._accepted, new.end, key=_END), new.profile.job
        for _ in serve(jobs[:place], free):
            pass
        beside = free.copy()
        (over,) = serve([job], beside)
        delay = over - free[0]  # no slot, and so no later task, is delayed by more
        later = [(accepted, _due(accepted, now, present)) for accepted in self._accepted[place:]]
        ends = list(serve(jobs[place:], free))
        if any(end <= due < end + delay for (_, due), end in zip(later, ends, strict=True)):
            delayed = serve(jobs[place:], beside)
            for (accepted, due), end, then in zip(later, ends, delayed, strict=True):
                if end <= due < then:
                    (over,) = serve([job], free)
                    return over, accepted.task
        return over, None

    def _jobs_and_slots(self, now: float, speed: Speed, slots: int) -> tuple[list[Job], list[float]]:
        """The jobs of all accepted deadlines, and a heap of the moments at which the slots are free.

        Running calls keep their slots to their ends, except those that later tasks needn't wait for
        (`_overtaken`): these are stages of their own tasks.
        """
        times, jobs = self._service_times, [accepted.profile.job for accepted in self._accepted]
        takes = {
            running: self._timing.headroom
            * seconds_left(times, running, running.slot.decided_at_progress, speed)
            for running in self._running.values()
        }
        overtaken = self._overtaken(slots)
        stages: dict[int, Stage] = {}
        for running in overtaken:
            for at in self._indices(running):
                width, longest = stages.get(at, (0, 0.0))
                stages[at] = Stage(width + 1, max(longest, takes[running]))
        busy = {running: now + seconds for running, seconds in takes.items() if running not in overtaken}
        for running, moment in busy.items():
            for at in self._indices(running):
                jobs[at] = jobs[at]._replace(ready=max(jobs[at].ready, moment))
        for at, stage in stages.items():
            jobs[at] = jobs[at]._replace(stages=merged([stage, *jobs[at].stages]))
        free = ([now] * (slots - len(busy)) + sorted(busy.values()))[-slots:]
        heapq.heapify(free)
        return jobs, free

    def _overtaken(self, slots: int) -> set[Running]:
        """Running calls that more urgent tasks needn't wait for, since these find a slot beside them.

        There are such calls while more may run than are enough: those whose tasks have the latest deadlines.
        """
        if self._slots is None or slots == self._slots:
            return set()
        found = [
            (self._by_task[level].end, running)
            for running in self._running.values()
            for level in running.request.task.lineage
            if level in self._by_task
        ]
        found.sort(key=itemgetter(0), reverse=True)
        return {running for _, running in found[: max(0, self._slots - len(self._running))]}

    def _indices(self, running: Running) -> list[int]:
        """Positions of the accepted deadlines that a running call works for."""
        tasks = running.request.task.lineage
        return [self._index(self._by_task[task]) for task in tasks if task in self._by_task]

    def _index(self, accepted: AcceptedDeadline) -> int:
        return self._accepted.index(accepted, bisect_left(self._accepted, accepted.end, key=_END))

    def _late(
        self, new: AcceptedDeadline, now: float, needed: float, speed: Speed, harmed: TaskState | None
    ) -> DeadlineError:
        needed, there = speed.takes(needed) + SAFETY, max(0.0, new.end - now)
        alone = speed.takes(new.profile.job.alone)
        queue = max(0.0, needed - alone)
        sooner = "" if harmed is None else f", sooner {harmed.name!r} would miss its own deadline"
        behind = f" and {queue:.3f} s behind {len(self)} admitted tasks{sooner}" if queue > SAFETY else ""
        return DeadlineError(
            f"task {new.task.name!r}: {there:.3f} s are left and it needs {needed:.3f} s: "
            f"{alone:.3f} s for its answers at {1000 * speed.tpot:.1f} ms a token, as so many calls have "
            f"it{behind}; raise seconds=, lower final_solution= or come back later",
            needed={"seconds": needed},
            available={"seconds": there},
        )


def _due(deadline: AcceptedDeadline, now: float, present: Speed) -> float:
    """The moment by which work at the expected speed has to be over for a deadline."""
    end = deadline.end - SAFETY
    return now + present.fits(end - now) if present.left else end


def remaining(task: TaskState) -> Work:
    """A task's remaining work: calls that wait, declared calls, and the final answer."""
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
    """A prompt's tokens, up to the next eighth of a power of two: so many tasks have the same work."""
    step = 1 << max(0, prompt.bit_length() - 4)
    return -(-prompt // step) * step


def seconds_left(times: ServiceTimeStats, running: Running, done: int, speed: Speed) -> float:
    """Seconds that a running call with `done` solution tokens still takes if it stops thinking now."""
    request, budget = running.request, running.grant.budget
    return times.rest(request.terms.kind, budget, request.size.prompt, done, speed)
