"""Steering a running call from outside: when thinking and solution must end, and how long thinking may be.

The scheduler holds a `Control` while the call's driver (`elastic_agent.generation.generate`) runs, and moves
the moments as the deadline nears or the upstream slows down. Times are the event loop's clock, in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .phases.deltas import Delta, Segment
from .phases.stop_reasons import SolutionEnd, ThinkingEnd
from .phases.two_phase import TwoPhase

GRAIN = 0.05
"""Seconds by which an event loop's timer may be early."""


class Control:
    """Steers one running call from outside. Times are the event loop's clock, in seconds.

    Attributes:
        think_until: thinking is cut at this moment.
        answer_until: the solution ends at this moment.
        on_tokens: called after each chunk with (segment, tokens, now); may move the two moments.
        on_pass: called with the number of input tokens when a pass is sent.
        on_resume: called with the time when thinking goes on after a pause, in another pass.
        on_cached: called with the number of those that the upstream says it had in its prefix cache.
        sending: awaited right before each request is sent; what it raises ends the call, and nothing is sent.
        more: asked with the thinking tokens so far when thinking has reached its limit: a higher limit, for
            which the prompt and the thinking are read in another pass, or None. Set before the call is made.
    """

    def __init__(
        self,
        think_until: float | None = None,
        answer_until: float | None = None,
        on_tokens: Callable[[Segment, int, float], None] | None = None,
        more: Callable[[int], Awaitable[int | None]] | None = None,
    ) -> None:
        self.think_until = think_until
        self.answer_until = answer_until
        self.on_tokens = on_tokens
        self.on_pass: Callable[[int], None] | None = None
        self.on_resume: Callable[[float], None] | None = None
        self.on_cached: Callable[[int], None] | None = None
        self.sending: Callable[[], Awaitable[None]] | None = None
        self.more = more
        self._limit: int | None = None
        self._most = 0  # thinking tokens that the context has room for
        self._cut: ThinkingEnd | None = None
        self._machine: TwoPhase | None = None
        self._wait: asyncio.Timeout | None = None

    def set_limit(self, thinking: int) -> None:
        """Move the thinking limit, down or up; a running pass is interrupted only if it is past it.

        The context stays a limit. A limit raised past what the running pass asked for costs another pass.
        """
        self._limit = thinking
        self._steer()

    def cut(self, reason: ThinkingEnd = ThinkingEnd.PREEMPTED) -> None:
        """End thinking now; the solution follows."""
        self._cut = reason
        self._steer()

    def move(self, think_until: float | None, answer_until: float | None) -> None:
        """Move both moments, and have a waiting call mind them at once."""
        self.think_until, self.answer_until = think_until, answer_until
        self._steer()

    def _steer(self) -> None:
        """Have a waiting call mind what has changed."""
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(self._until())

    def _apply(self, now: float) -> list[Delta]:
        """Bring what was asked for into the machine."""
        assert self._machine is not None
        machine, deltas = self._machine, list[Delta]()
        if self._limit is not None:
            limit, self._limit = min(self._limit, self._most), None
            deltas += machine.set_limit(limit)
        if self._cut is not None:
            deltas += machine.cut(self._cut)
        over = self.answer_until is not None and now >= self.answer_until
        if over or (self.think_until is not None and now >= self.think_until):
            deltas += machine.cut(ThinkingEnd.DEADLINE)
        if over:
            deltas += machine.end_solution(SolutionEnd.DEADLINE)
        return deltas

    async def _at_limit(self) -> list[Delta]:
        """Thinking has reached its limit: ask for more, or end it."""
        assert self._machine is not None
        assert self.more is not None
        used = self._machine.usage.thinking
        limit = min(await self.more(used) or 0, self._most)
        if limit > used:
            self._resumed()
            return self._machine.set_limit(limit)
        return self._machine.cut(ThinkingEnd.BUDGET)

    def _resumed(self) -> None:
        if self.on_resume is not None:
            self.on_resume(asyncio.get_running_loop().time())

    def _interrupted(self, now: float) -> list[Delta]:
        """The running pass was interrupted, and is lost: what it was interrupted for happens now.

        The clock's grain may fire a moment early, and a limit may have been raised again in between.
        """
        assert self._machine is not None
        deltas = self._apply(now)
        until = self._until()
        near = until is not None and until - now < GRAIN
        deltas += self._machine.cut(ThinkingEnd.DEADLINE if near else ThinkingEnd.PREEMPTED)
        deltas += self._machine.end_solution(SolutionEnd.DEADLINE)
        return deltas

    def _until(self) -> float | None:
        """The moment at which the running pass has to be interrupted; 0 is at once."""
        assert self._machine is not None
        moments = [self.answer_until]
        if self._machine.thinking_end is None:
            lowered = self._limit is not None and self._machine.usage.thinking >= self._limit
            moments += [self.think_until, 0.0 if lowered or self._cut is not None else None]
        return min((m for m in moments if m is not None), default=None)
