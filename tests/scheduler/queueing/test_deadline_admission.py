"""Which deadlines are promised: the same as by laying out all tasks anew, each time, twice."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elastic_agent import Budget
from elastic_agent.errors import DeadlineError
from elastic_agent.scheduler.allocation.call_terms import CallTerms
from elastic_agent.scheduler.allocation.task_state import FinalAnswer, TaskState
from elastic_agent.scheduler.estimates.call_stats import ServiceTimeStats, UsageStats
from elastic_agent.scheduler.estimates.workload import FINAL, Forecast
from elastic_agent.scheduler.latency.model import Speed
from elastic_agent.scheduler.latency.slack import SAFETY, Slot, Timing
from elastic_agent.scheduler.ledger.ledger import Ledger
from elastic_agent.scheduler.policies.simple import Uniform
from elastic_agent.scheduler.queueing.deadline_admission import DeadlineAdmission, rounded, seconds_left

SPEED = Speed(0.5, 0.01, 0.5, 0.01, 0.002, 0.001)
KINDS = ("step", "part", FINAL)
KIND = st.sampled_from(KINDS)
WHICH = st.integers(0, 30)
EXPECT = st.dictionaries(KIND, st.integers(0, 3))
OPEN = st.tuples(st.just("open"), st.integers(1, 12), EXPECT, st.sampled_from((0, 50, 200)))
CHANGE = st.tuples(
    st.sampled_from(["arrive", "leave", "over", "answered", "end", "size", "prompt"]), WHICH, KIND
)
RUN = st.tuples(st.just("run"), WHICH, st.integers(1, 600), st.floats(0, 1))
LATER = st.tuples(st.just("later"), st.floats(0, 1))
TIMING = Timing()


class Steady:
    """A speed that depends on the load alone, and notes which was asked for.

    Args:
        now, left, enough: see `Speed`.
    """

    asked = 0

    def __init__(self, now: float = 1.0, left: float = 0.0, enough: int = 0) -> None:
        self._present = {"now": now, "left": left, "enough": enough}

    def at(self, load: int) -> Speed:
        self.asked, more = load, 1 + load / 10
        ttft, each, prefill = more * SPEED.usual_ttft, more * SPEED.usual_tpot, more * SPEED.usual_prefill
        slow = SPEED._replace(usual_ttft=ttft, usual_tpot=each, usual_prefill=prefill, **self._present)
        return slow.slowed(slow.now)


class Naive:
    """The accepted deadlines as a list; each question looks at the whole list."""

    def __init__(
        self, latency: Steady, service_times: ServiceTimeStats, running: dict[str, Any], slots: int | None
    ) -> None:
        self.made: list[tuple[TaskState, float]] = []
        self.latency, self.service_times, self.running, self.slots = latency, service_times, running, slots

    def needed(self, state: TaskState, end: float, now: float) -> tuple[int, float | None]:
        """For how many calls at once; the seconds that it would need if it is refused."""
        states = [b for b, _ in self.made] + [state]
        load, slots = max(len(self.running), sum(map(width, states))), self.slots
        if slots is not None:
            slots = min(slots, self.latency.at(slots).enough or slots)
            load = min(load, slots)
        present = self.latency.at(load)
        speed = present.expected()
        takes = [
            (r, TIMING.headroom * seconds_left(self.service_times, r, r.slot.decided_at_progress, speed))
            for r in self.running.values()
        ]
        ends = {
            r: max([e for b, e in self.made if b in r.request.task.lineage], default=-1.0) for r, _ in takes
        }
        later = sorted([r for r in ends if ends[r] >= 0], key=lambda r: -ends[r])
        free = 0 if slots is None or slots == self.slots else (self.slots or 0) - len(self.running)
        beside = later[: max(0, free)]
        over = [(r, now + seconds) for r, seconds in takes if r not in beside]
        ready = {b: max([now, *(m for r, m in over if b in r.request.task.lineage)]) for b, _ in self.made}
        first = {
            b: [seconds for r, seconds in takes if r in beside and b in r.request.task.lineage]
            for b, _ in self.made
        }
        busy = sorted(moment for _, moment in over)
        places = None if slots is None else ([now] * (slots - len(busy)) + busy)[-slots:]
        others = []
        for b, e in self.made:
            stages, spare = self.stages(b, speed)
            start = [(len(first[b]), max(first[b]))] if first[b] else []
            others.append((now + present.fits(e - SAFETY - now), ready[b], start + stages, spare))
        mine = (now + present.fits(end - SAFETY - now), now, *self.stages(state, speed))
        before, with_it = endings(others, places), endings([*others, mine], places)
        late = with_it[-1] > mine[0]
        if any(was <= o[0] < then for o, was, then in zip(others, before, with_it, strict=False)):
            late, with_it = True, endings([*others, (math.inf, *mine[1:])], places)
            late = with_it[-1] > mine[0]
        return load, present.takes(with_it[-1] - now) + SAFETY if late else None

    def stages(self, state: TaskState, speed: Speed) -> tuple[list[tuple[int, float]], float]:
        answers = state.reserving or state.forecast.pending.get(FINAL)
        found, final = [], state.final_answer.size if answers else 0
        for kind, count in state.forecast.pending.items():
            if kind != FINAL:
                found.append((count, self.answer(kind, final, speed)))
        for kind, count in state.forecast.coming.items():
            if kind != FINAL and state.reserving:
                times = 1 if kind in state.parallel else count
                found.append((count // times, times * self.answer(kind, final, speed)))
        spare = 0.0
        if state.reserving or state.forecast.pending.get(FINAL):
            size = math.ceil(self.service_times.share(FINAL) * state.final_answer.size)
            prompt = state.largest_prompt and state.largest_prompt + state.final_answer.size
            found.append((1, speed.answer(size, rounded(prompt) or self.service_times.prompt(FINAL))))
            spare = TIMING.headroom * (state.final_answer.size - size) * speed.tpot
        return [(count, TIMING.headroom * seconds) for count, seconds in found], spare

    def answer(self, kind: str, final: int, speed: Speed) -> float:
        return speed.answer(self.service_times.size(kind, final), self.service_times.prompt(kind))


def width(state: TaskState) -> int:
    pending, coming = state.forecast.pending, state.forecast.coming
    return max([1, sum(pending.values()), *(coming.get(kind, 0) for kind in state.parallel)])


def endings(jobs: list[Any], free: list[float] | None) -> list[float]:
    """By deadline, each stage on the slots that are free first; stages of single calls keep theirs."""
    slots, found = None if free is None else list(free), [0.0] * len(jobs)
    for i in sorted(range(len(jobs)), key=lambda i: jobs[i][0]):
        _, moment, stages, spare = jobs[i]
        kept = None
        for count, seconds in stages:
            starts = []
            for _ in range(count):
                if slots is None:
                    starts.append(moment)
                    continue
                at = kept if count == 1 and kept is not None else slots.index(min(slots))
                starts.append(moment if at == kept else max(moment, slots[at]))
                slots[at] = starts[-1] + seconds
                kept = at if count == 1 else None
            moment = max([moment, *(start + seconds for start in starts)])
        found[i] = moment + spare
    return found


@given(
    st.one_of(st.none(), st.integers(1, 3)),
    st.builds(Steady, st.sampled_from((1.0, 3.0)), st.sampled_from((0.0, 4.0)), st.integers(0, 3)),
    st.lists(st.one_of(OPEN, OPEN, CHANGE, RUN, LATER), max_size=40),
)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_promises_are_what_a_naive_plan_makes_them(
    slots: int | None, latency: Steady, steps: list[Any]
) -> None:
    """Admitted or refused, at which load, and with which seconds; in a slowdown, and where fewer calls than
    may run are enough."""
    usage_stats, running = UsageStats(), dict[str, Any]()
    service_times = ServiceTimeStats(usage_stats)
    admission = DeadlineAdmission(latency, service_times, TIMING, running, slots)  # type: ignore[arg-type]
    naive, ledger, now = Naive(latency, service_times, running, slots), Ledger(), 0.0
    for number, (what, *more) in enumerate(steps):
        if what == "later":
            now += more[0]
        elif what == "open":
            seconds, expect, final = more
            account = ledger.open(f"{number}", now=now)
            state = TaskState(f"{number}", account, Forecast(), Uniform(), parallel=frozenset(["part"]))
            state.final_answer = FinalAnswer.before_calls(final or None)
            state.forecast.expect(expect)
            load, needed = naive.needed(state, now + seconds, now)
            if needed is None:
                admission.accept(state, now + seconds, now)
                naive.made.append((state, now + seconds))
            else:
                with pytest.raises(DeadlineError) as error:
                    admission.accept(state, now + seconds, now)
                assert error.value.needed["seconds"] == pytest.approx(needed)
            assert latency.asked == max(1, load)
        elif naive.made:
            state, end = naive.made[more[0] % len(naive.made)]
            change(what, more, state, running, usage_stats, slots)
            if what == "end":
                admission.release(state)
                naive.made.remove((state, end))


def change(
    what: str,
    more: list[Any],
    state: TaskState,
    running: dict[str, Any],
    usage_stats: UsageStats,
    slots: int | None,
) -> None:
    """Something happens in a task, as the dispatcher would have it."""
    if what == "run" and (slots is None or len(running) < slots):
        limit, done = more[1:]
        slot = Slot(progress=int(done * limit), decided_at_progress=int(done * limit))
        grant = SimpleNamespace(budget=Budget(8, limit))
        terms, size = CallTerms(FINAL), SimpleNamespace(prompt=40)
        request = SimpleNamespace(task=state, terms=terms, size=size)
        running[f"{len(running)}"] = Call(request=request, grant=grant, slot=slot)
    elif what == "arrive":
        state.forecast.arrived(more[1])
    elif what == "leave" and state.forecast.pending.get(more[1]):
        state.forecast.left(more[1])
    elif what == "over":
        usage_stats.record(more[1], 10, 40 + 10 * len(running))
        if running:
            running.popitem()[1].request.task.forecast.ended()
    elif what == "answered":
        state.forecast.ended()
        state.reserving = not state.reserving
    elif what == "prompt":  # a call has been looked at, which is over at once
        state.forecast.arrived(more[1])
        state.largest_prompt += 100
        state.forecast.left(more[1])
    elif what == "size" and state.final_answer.given is None:
        state.final_answer = FinalAnswer.before_calls(99)


class Call(SimpleNamespace):
    """What the admission looks at of a running call."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def test_steps_are_as_long_as_their_tasks_answers_where_that_says_more() -> None:
    """A chain whose answers are short was refused for the steps of long ones; where final answers say nothing
    of them, the mean counts."""
    for follows in (True, False):
        service_times = ServiceTimeStats(usage_stats := UsageStats())
        for i in range(40):
            limit = 1024 if i % 2 else 32
            tokens = limit // 4 if follows else 100
            usage_stats.record("step", 10, tokens)
            service_times.record("step", tokens, 1024, limit)
        sizes = service_times.size("step", 32), service_times.size("step", 1024)
        assert sizes == ((8, 256) if follows else (100, 100))
        assert service_times.size("step") == service_times.size("step", 0) > 32
