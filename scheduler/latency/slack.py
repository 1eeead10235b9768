"""Deadlines as moments: until when a call may think, and when its answer has to be over.

    now |---- thinking ----|-- this solution --|-- other calls' floors --|-- final answer --| deadline
                     think_until          answer_until (a call that is not the final one)

All that follows thinking is planned at the upper quantiles of the endpoint's speed. Speed changes: a call
that was granted when tokens took 10 ms may have to answer when they take 100. So beyond the plain plan slack
is kept for an endpoint that becomes `slowdown` times slower than usual, as far as `share` of the task's time
allows; a slowdown that is there already is in the plan, and no longer in the slack. Both moments are
computed again at every chunk (`runtime.deadline_controller`), so thinking pays for a slow-down, not the
solution.

While the speed is unknown, thinking may take half of the window; the first tokens put an end to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from elastic_agent.validation import put, real

from ..ledger.amounts import INFINITY
from .model import Speed

SAFETY = 0.01
"""Seconds kept free at the end of everything: timers and cancelled streams take a moment."""


class RemainingWork(NamedTuple):
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

    def think_until(
        self, window: CallWindow, after: RemainingWork, speed: Speed | None, thought: int = 0
    ) -> float:
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

    def answer_until(self, window: CallWindow, after: RemainingWork, speed: Speed | None) -> float:
        """When a call's solution has to be over: the task's end, or the last moment for the final answer.

        However slow the upstream looks, the final answer takes no more than a share of the call's window: an
        estimate must not cut a solution while there is time.
        """
        tail = self.final_answer_seconds(speed, after.final, after.final_prompt) if after.final else SAFETY
        return window.end - min(tail, max(SAFETY, self.share * (window.end - window.started)))


class CallWindow(NamedTuple):
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
        preempt_at: when another call needs it: thinking ends early enough for that. Others write it at any
            time.
        progress: solution tokens so far; its deadline controller writes them at any time.
        decided_at_progress: the same, as of when somebody last decided by it.
    """

    preempt_at: float = INFINITY
    progress: int = 0
    decided_at_progress: int = 0
