"""Moves a running call's limits as its deadline nears, and learns the model's speed from its tokens."""

from __future__ import annotations

from collections.abc import Callable

from elastic_agent.generation.control import Control
from elastic_agent.generation.phases.deltas import Segment

from ..latency.model import Latency, Pace
from ..latency.prefill import First
from ..latency.slack import SAFETY, CallWindow, RemainingWork, Slot, Timing
from ..ledger.amounts import INFINITY


class DeadlineController:
    """Sets until when a running call may think and answer.

    Args:
        latency: the latency model of the endpoint, which learns from the call.
        timing: how careful to be.
        after: the work that follows the call's thinking.
        started: when the call was sent.
        end: when the task has to be over; asked again with every chunk, because the moment moves. None: there
            is no deadline, and the controller only learns.
        span: how long the task may take in all.
        slot: the call's place on its endpoint.
        later: the call is not the first of its task.
    """

    def __init__(
        self,
        latency: Latency,
        timing: Timing,
        after: RemainingWork,
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
        self._move()

    def on_pass(self, prompt: int) -> None:
        """Note that a pass was sent, with so many input tokens."""
        self._passes, self._sent, self._cached, self._first = self._passes + 1, prompt, None, None
        self._cold = self._latency.cold

    def on_cached(self, cached: int) -> None:
        """Note how many input tokens the upstream had cached, as it says at the first token or at the end."""
        self._cached = cached
        if self._first is not None:
            self._latency.record_cached(self._first, cached)

    def on_tokens(self, segment: Segment, count: int, now: float) -> None:
        """Learn from a chunk that came, and move the limits."""
        gap, self._last = now - self._last, now
        if segment is Segment.SOLUTION:
            self._slot.progress += count
        else:
            self._thought += count
        if segment is not self._segment:
            self._segment = segment
            first = First(max(0.0, gap), self._sent, self._passes > 1, self._later, self._cached)
            self._first = self._pace.first(count, first, cold=self._cold)
        else:
            self._pace.more(count, gap)
        self._move()

    def on_resume(self, now: float) -> None:
        """Note that the call goes on thinking, in another pass."""
        self._segment, self._last = None, now

    def stop(self) -> None:
        """End thinking and solution now."""
        self._stopped = True
        self.control.set_deadlines(self._started, self._started)

    def _move(self) -> None:
        if self._stopped or (self._end is None and self._slot.preempt_at == INFINITY):
            return
        speed, think, answer = self._latency.speed(), INFINITY, INFINITY
        if self._end is not None:
            window = CallWindow(self._started, self._end(), self._span)
            answer = self._timing.answer_until(window, self._after, speed)
            think = min(self._timing.think_until(window, self._after, speed, self._thought), answer)
        if speed is not None and self._slot.preempt_at < INFINITY:
            prompt = speed.again * (self._after.prompt + self._thought)
            think = min(think, self._slot.preempt_at - speed.answer(self._after.solution, prompt) - SAFETY)
        moved = _moved(self.control.think_until, think) or _moved(self.control.answer_until, answer)
        if moved:
            self.control.set_deadlines(_moment(think), _moment(answer))


def _moment(moment: float) -> float | None:
    return None if moment == INFINITY else moment


def _moved(before: float | None, now: float) -> bool:
    """Whether a moment moved by more than a millisecond."""
    if before is None or now == INFINITY:
        return _moment(now) != before
    return abs(now - before) > 1e-3
