"""Steering a running call: deadlines for thinking and solution, and the thinking limit.

Somebody outside the call (the scheduler, say) holds a `Control` and changes it while the call runs. The
call's driver holds the `Steering` of the same control and obeys it. Times are the event loop's clock, in
seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .phases.deltas import Delta, Segment
from .phases.stop_reasons import SolutionEnd, ThinkingEnd
from .phases.two_phase import TwoPhase

T = TypeVar("T")

GRAIN = 0.05
"""Seconds by which an event loop's timer may fire early."""


class Control:
    """Steers one running call from outside. Times are the event loop's clock, in seconds.

    Attributes:
        think_until: thinking is cut at this moment.
        answer_until: the solution ends at this moment.
        on_tokens: called after each chunk with (segment, tokens, now); may move the two moments.
        extend_limit: awaited with the thinking tokens so far when thinking has reached its limit; returns a
            higher limit, for which the prompt and the thinking are read again in another pass, or None. Set
            before the call is made.
        on_pass: called with the number of input tokens when a pass is sent.
        on_resume: called with the time when thinking goes on after a pause, in another pass.
        on_cached: called with the number of input tokens that the upstream had in its prefix cache.
        before_send: awaited right before each request is sent. If it raises, the call ends and nothing is
            sent.
    """

    def __init__(
        self,
        think_until: float | None = None,
        answer_until: float | None = None,
        on_tokens: Callable[[Segment, int, float], None] | None = None,
        extend_limit: Callable[[int], Awaitable[int | None]] | None = None,
    ) -> None:
        self.think_until = think_until
        self.answer_until = answer_until
        self.on_tokens = on_tokens
        self.extend_limit = extend_limit
        self.on_pass: Callable[[int], None] | None = None
        self.on_resume: Callable[[float], None] | None = None
        self.on_cached: Callable[[int], None] | None = None
        self.before_send: Callable[[], Awaitable[None]] | None = None
        self.wanted_limit: int | None = None
        self.wanted_cut: ThinkingEnd | None = None
        self._steering: Steering | None = None

    def set_limit(self, thinking: int) -> None:
        """Move the thinking limit, down or up; a running pass is interrupted only if it is past the limit.

        The context stays a limit. A limit above what the running pass asked for costs another pass.
        """
        self.wanted_limit = thinking
        self._changed()

    def cut(self, reason: ThinkingEnd = ThinkingEnd.PREEMPTED) -> None:
        """End thinking now; the solution follows."""
        self.wanted_cut = reason
        self._changed()

    def set_deadlines(self, think_until: float | None, answer_until: float | None) -> None:
        """Move both moments; a call that waits for tokens obeys at once."""
        self.think_until, self.answer_until = think_until, answer_until
        self._changed()

    def attach(self, machine: TwoPhase, max_thinking: int) -> Steering:
        """The driver's side, for the call of this machine.

        Args:
            max_thinking: thinking tokens that the context has room for.
        """
        self._steering = Steering(self, machine, max_thinking)
        return self._steering

    def _changed(self) -> None:
        if self._steering is not None:
            self._steering.reschedule()


class Interrupted(Exception):
    """The control's moment came while the driver waited."""


class Steering:
    """The driver's side of a `Control`: what to do to the machine, and how long to wait for tokens."""

    def __init__(self, control: Control, machine: TwoPhase, max_thinking: int) -> None:
        self._control, self._machine, self._max_thinking = control, machine, max_thinking
        self._timeout: asyncio.Timeout | None = None  # of the wait that runs

    @property
    def interrupting(self) -> bool:
        """Whether the running wait is being broken off because the control's moment has come."""
        return self._timeout is not None and self._timeout.expired()

    async def wait_for(self, step: Awaitable[T]) -> T:
        """Await a step of the driver.

        Raises:
            Interrupted: the control's moment came first; the step was cancelled.
        """
        try:
            async with asyncio.timeout_at(self._interrupt_at()) as timeout:
                self._timeout = timeout
                return await step
        except TimeoutError:
            if timeout.expired():
                raise Interrupted from None
            raise
        finally:
            self._timeout = None

    def reschedule(self) -> None:
        """The control has changed: the running wait ends at the new moment."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._interrupt_at())

    def apply(self) -> list[Delta]:
        """Do to the machine what the control wants by now."""
        control, machine, deltas = self._control, self._machine, list[Delta]()
        now = asyncio.get_running_loop().time()
        if control.wanted_limit is not None:
            limit, control.wanted_limit = min(control.wanted_limit, self._max_thinking), None
            deltas += machine.set_limit(limit)
        if control.wanted_cut is not None:
            deltas += machine.cut(control.wanted_cut)
        over = control.answer_until is not None and now >= control.answer_until
        if over or (control.think_until is not None and now >= control.think_until):
            deltas += machine.cut(ThinkingEnd.DEADLINE)
        if over:
            deltas += machine.end_solution(SolutionEnd.DEADLINE)
        return deltas

    async def at_limit(self) -> list[Delta]:
        """Thinking has reached its limit: ask for a higher one, or end thinking."""
        assert self._control.extend_limit is not None
        used = self._machine.usage.thinking
        limit = min(await self._control.extend_limit(used) or 0, self._max_thinking)
        if limit > used:
            self.resumed()
            return self._machine.set_limit(limit)
        return self._machine.cut(ThinkingEnd.BUDGET)

    def interrupted(self) -> list[Delta]:
        """The running pass was interrupted and is lost: what interrupted it happens now.

        The clock's grain may fire a moment early, and a limit may have been extended again in between: so the
        segment that ran ends in any case.
        """
        deltas = self.apply()
        until, now = self._interrupt_at(), asyncio.get_running_loop().time()
        near = until is not None and until - now < GRAIN
        deltas += self._machine.cut(ThinkingEnd.DEADLINE if near else ThinkingEnd.PREEMPTED)
        deltas += self._machine.end_solution(SolutionEnd.DEADLINE)
        return deltas

    # Calls of the control's callbacks

    def pass_sent(self, prompt_tokens: int) -> None:
        if self._control.on_pass is not None:
            self._control.on_pass(prompt_tokens)

    def resumed(self) -> None:
        if self._control.on_resume is not None:
            self._control.on_resume(asyncio.get_running_loop().time())

    def chunk_came(self, segment: Segment, tokens: int, cached: int, now: float) -> None:
        if self._control.on_cached is not None and cached:
            self._control.on_cached(cached)
        if self._control.on_tokens is not None and tokens:
            self._control.on_tokens(segment, tokens, now)

    def _interrupt_at(self) -> float | None:
        """The moment at which the running pass has to be interrupted; 0: at once; None: never."""
        control, machine = self._control, self._machine
        moments = [control.answer_until]
        if machine.thinking_end is None:
            limit = control.wanted_limit
            lowered = limit is not None and machine.usage.thinking >= limit
            moments += [control.think_until, 0.0 if lowered or control.wanted_cut is not None else None]
        return min((m for m in moments if m is not None), default=None)
