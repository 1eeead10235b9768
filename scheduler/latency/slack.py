"""Deadlines as moments: until when a call may think, and when its answer has to be over.

    now |---- thinking ----|-- this solution --|-- other calls' floors --|-- final answer --| deadline
                     think_until          answer_until (a call that is not the final one)

All that follows thinking is planned at the upper quantiles of the endpoint's speed. Speed changes: a call
that was granted when tokens took 10 ms may have to answer when they take 100. So beyond the plain plan a
cushion is kept for an upstream that becomes `slowdown` times slower than usual, as far as `share` of the
task's time allows; what has slowed down already is in the plan and no longer in the cushion. Both moments
are computed again at every chunk (`Pilot`), so thinking pays for a slow-down, not the solution.

While the speed is unknown, thinking may take half of the window; the first tokens put an end to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from elastic_agent.generation.control import Control
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.validation import put, real

from ..ledger.amounts import INFINITY
from .model import Latency, Pace, Speed
from .prefill import First

SAFETY = 0.01
"""Seconds kept free at the end of everything: timers and cancelled streams take a moment."""


class After(NamedTuple):
    """What has to happen after the thinking of a call.

    Attributes:
        solution: solution tokens of this call.
        others: calls that will follow one after the other, the final one not counted.
        other_solution: solution tokens of each of them.
        final: solution tokens of the final answer; 0 when this call is the final one.
        prompt: tokens that its solution's pass sends again.
        fresh: prompt tokens that it has not sent yet, if it still waits.
        others_prompt: prompt tokens of the others, all together.
        final_prompt: prompt tokens of the final answer.
    """

    solution: int
    others: int = 0
    other_solution: int = 0
    final: int = 0
    prompt: int = 0
    fresh: int = 0
    others_prompt: int = 0
    final_prompt: int = 0

    @property
    def tokens(self) -> int:
        """All solution tokens."""
        return self.solution + self.others * self.other_solution + self.final

    @property
    def passes(self) -> int:
        """All passes."""
        return 1 + self.others + (1 if self.final else 0)


@dataclass(frozen=True, slots=True)
class Timing:
    """How careful to be with time.

    Attributes:
        slowdown: a fall in speed that should not cost an answer.
        share: part of a task's time that may be kept for it.
        headroom: a task is admitted if its answers could take so many times what they are expected to.
        risk: probability with which one more slowdown of the endpoint, like those that it has had, may cost
            an answer. Thinking ends early enough for that; 1: no time is kept for them.
    """

    slowdown: float = 10.0
    share: float = 1 / 3
    headroom: float = 1.25
    risk: float = 0.005

    def __post_init__(self) -> None:
        put(self, "slowdown", real("slowdown", self.slowdown, least=1.0, most=1000.0))
        put(self, "share", real("share", self.share, above=True, most=1.0))
        put(self, "headroom", real("headroom", self.headroom, least=1.0, most=1000.0))
        put(self, "risk", real("risk", self.risk, least=0.0, most=1.0))

    def final_answer_seconds(self, speed: Speed | None, final: int, prompt: int) -> float:
        """Seconds to keep at a task's end for a final answer of so many tokens to a prompt of so many."""
        if speed is None:
            return 0.0
        return speed.ttft + speed.later * prompt * speed.prefill + final * speed.tpot + SAFETY

    def think_until(self, window: Window, after: After, speed: Speed | None, thought: int = 0) -> float:
        """When a call has to stop thinking; `thought` tokens of it are there already, and are sent again."""
        if speed is None:
            return window.started + (window.end - window.started) / (2 + after.others)
        ttft, tpot, usual_ttft, usual_tpot, prefill, usual_prefill, again, later, *_ = speed
        tokens, passes, slowdown = after.tokens, after.passes, self.slowdown
        plan = passes * max(ttft, usual_ttft) + tokens * max(tpot, usual_tpot) + SAFETY
        slow = passes * max(ttft, slowdown * usual_ttft) + tokens * max(tpot, slowdown * usual_tpot) + SAFETY
        usual = passes * usual_ttft + tokens * usual_tpot + SAFETY
        if prefill:
            read = again * (after.prompt + thought) + after.fresh
            read += later * (after.others_prompt + after.final_prompt)
            plan += read * max(prefill, usual_prefill)
            slow += read * max(prefill, slowdown * usual_prefill)
            usual += read * usual_prefill
        next_one = speed.slowdown
        known = usual + max(0.0, next_one.delay(usual) - next_one.accepted(self.risk))
        return window.end - max(plan, min(slow, self.share * window.span), known)

    def answer_until(self, window: Window, after: After, speed: Speed | None) -> float:
        """When a call's solution has to be over: the task's end, or the last moment for the final answer.

        However slow the upstream looks, the final answer takes no more than a share of the call's window: an
        estimate must not cut a solution while there is time.
        """
        tail = self.final_answer_seconds(speed, after.final, after.final_prompt) if after.final else SAFETY
        return window.end - min(tail, max(SAFETY, self.share * (window.end - window.started)))


class Window(NamedTuple):
    """The time of a call.

    Attributes:
        started: when it started.
        end: when its task has to be over.
        span: how long that task may take in all, in seconds.
    """

    started: float
    end: float
    span: float


@dataclass(slots=True)
class Slot:
    """A running call's place on its endpoint.

    Attributes:
        until: when somebody else needs it: thinking ends early enough for that. Others write it at any time.
        done: solution tokens so far; its pilot writes them at any time.
        seen: the same, as of when somebody last decided by it.
    """

    until: float = INFINITY
    done: int = 0
    seen: int = 0


class Pilot:
    """Steers one running call: learns the speed from its tokens and moves its moments.

    Args:
        latency: the endpoint's; updated here.
        timing: how careful to be.
        after: what follows this call's thinking.
        started: when the call was sent.
        end: the moment at which the task has to be over, now (it is asked again at every move); None = no
            deadline, the pilot only learns.
        span: how long the task may take in all.
        slot: the call's place on its endpoint.
        later: it is not its task's first call.
    """

    def __init__(
        self,
        latency: Latency,
        timing: Timing,
        after: After,
        started: float,
        end: Callable[[], float] | None = None,
        span: float = INFINITY,
        slot: Slot | None = None,
        *,
        later: bool = False,
    ) -> None:
        self._latency, self._timing, self._after = latency, timing, after
        self._end, self._span, self._slot = end, span, slot or Slot()
        self._started = self._last = started
        self._segment: Segment | None = None
        self._pace = Pace(latency)
        self._stopped, self._later = False, later
        self._sent = self._passes = self._thought = 0
        self._cached: int | None = None
        self._cold = False
        self._first: First | None = None
        self.control = Control(on_tokens=self.on_tokens)
        self.control.on_pass, self.control.on_cached = self.on_pass, self.on_cached
        self.control.on_resume = self.on_resume
        self._steer()

    def on_pass(self, prompt: int) -> None:
        """A pass was sent, with so many input tokens."""
        self._passes, self._sent, self._cached, self._first = self._passes + 1, prompt, None, None
        self._cold = self._latency.cold

    def on_cached(self, cached: int) -> None:
        """The upstream had so many of them; it may say so at the first token or at the pass's end."""
        self._cached = cached
        if self._first is not None:
            self._latency.record_cached(self._first, cached)

    def on_tokens(self, segment: Segment, count: int, now: float) -> None:
        """A chunk came: learn from it, steer by it."""
        gap, self._last = now - self._last, now
        if segment is Segment.SOLUTION:
            self._slot.done += count
        else:
            self._thought += count
        if segment is not self._segment:
            self._segment = segment
            self._first = self._pace.first(
                count,
                gap,
                self._sent,
                further=self._passes > 1,
                later=self._later,
                cached=self._cached,
                cold=self._cold,
            )
        else:
            self._pace.more(count, gap)
        self._steer()

    def on_resume(self, now: float) -> None:
        """It goes on thinking, in another pass."""
        self._segment, self._last = None, now

    def stop(self) -> None:
        """End the call now: thinking and solution."""
        self._stopped = True
        self.control.set_deadlines(self._started, self._started)

    def _steer(self) -> None:
        if self._stopped or (self._end is None and self._slot.until == INFINITY):
            return
        speed, think, answer = self._latency.speed(), INFINITY, INFINITY
        if self._end is not None:
            window = Window(self._started, self._end(), self._span)
            answer = self._timing.answer_until(window, self._after, speed)
            think = min(self._timing.think_until(window, self._after, speed, self._thought), answer)
        if speed is not None and self._slot.until < INFINITY:
            prompt = speed.again * (self._after.prompt + self._thought)
            think = min(think, self._slot.until - speed.answer(self._after.solution, prompt) - SAFETY)
        moved = _moved(self.control.think_until, think) or _moved(self.control.answer_until, answer)
        if moved:
            self.control.set_deadlines(_moment(think), _moment(answer))


def _moment(moment: float) -> float | None:
    return None if moment == INFINITY else moment


def _moved(before: float | None, now: float) -> bool:
    """By more than a millisecond."""
    if before is None or now == INFINITY:
        return _moment(now) != before
    return abs(now - before) > 1e-3
