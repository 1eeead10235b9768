"""Deadlines as moments: until when a call may think, and when its answer must be over.

    now |---- thinking ----|-- this solution --|-- minimums of other calls --|-- final answer --| deadline
                     think_until          answer_until (a call that is not the final one)

Everything after the thinking is planned at upper quantiles of the endpoint's speed. Speed changes: a call
that was granted when tokens took 10 ms may have to answer when they take 100. So slack is kept beyond the
plan, for an endpoint that becomes `slowdown` times slower than usual, as far as `share` of the task's time
allows. A slowdown that is there already is in the plan, and no longer in the slack. Both moments are computed
again at every chunk (`runtime.deadline_controller`), so thinking pays for a slowdown, not the solution.

While the speed is unknown, thinking may take half of the window; the first tokens put an end to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from elastic_agent.validation import put, real

from ..ledger.amounts import INFINITY
from .model import Speed

SAFETY = 0.01
"""Seconds kept free at every end: timers and cancelled streams take a moment."""


class RemainingWork(NamedTuple):
    """The work after the thinking of a call.

    Attributes:
        solution: solution tokens of this call.
        others: calls that will follow one after the other, without the final one.
        other_solution: solution tokens of each of them.
        final: solution tokens of the final answer; 0 when this call is the final one.
        prompt: tokens that the solution's pass sends again.
        fresh: prompt tokens that the call has not sent yet, if it still waits.
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


@dataclass(frozen=True, slots=True)
class Timing:
    """How careful to be with time.

    Attributes:
        slowdown: a fall in speed that must not cost an answer.
        share: part of a task's time that may be kept for such a fall.
        headroom: a task is admitted if its answers may take so many times their expected seconds.
        risk: probability with which the endpoint's next slowdown, if like earlier ones, may cost an answer.
            Thinking ends early enough for that; 1: no time is kept for slowdowns.
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
        """When a call has to stop thinking; its `thought` tokens so far will be sent again."""
        if speed is None:
            return window.started + (window.end - window.started) / (2 + after.others)
        tokens = after.solution + after.others * after.other_solution + after.final
        passes = 1 + after.others + (1 if after.final else 0)
        slowdown = self.slowdown
        ttft, tpot, usual_ttft, usual_tpot, prefill, usual_prefill = speed[:6]
        plan = passes * max(ttft, usual_ttft) + tokens * max(tpot, usual_tpot) + SAFETY
        slow = passes * max(ttft, slowdown * usual_ttft) + tokens * max(tpot, slowdown * usual_tpot) + SAFETY
        read = 0.0
        if prefill:
            read = speed.again * (after.prompt + thought) + after.fresh
            read += speed.later * (after.others_prompt + after.final_prompt)
            plan += read * max(prefill, usual_prefill)
            slow += read * max(prefill, slowdown * usual_prefill)
        kept = max(plan, min(slow, self.share * window.span))
        if speed.slower > 1:  # slowdowns were seen: the next one may be like them
            usual = passes * usual_ttft + tokens * usual_tpot + SAFETY + read * usual_prefill
            next_one = speed.slowdown
            kept = max(kept, usual + max(0.0, next_one.delay(usual) - next_one.accepted(self.risk)))
        return window.end - kept

    def answer_until(self, window: CallWindow, after: RemainingWork, speed: Speed | None) -> float:
        """When a call's solution has to be over: the task's end, or the last moment for the final answer.

        However slow the upstream looks, only `share` of the call's window is kept for the final answer: an
        estimate must not cut a solution while there is time.
        """
        kept = self.final_answer_seconds(speed, after.final, after.final_prompt) if after.final else SAFETY
        return window.end - min(kept, max(SAFETY, self.share * (window.end - window.started)))


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
        preempt_at: when another call needs the place; thinking ends early enough for that. The endpoint may
            change it at any time.
        progress: solution tokens so far; the call's deadline controller may change it at any time.
        decided_at_progress: the progress that the latest decision has read.
    """

    preempt_at: float = INFINITY
    progress: int = 0
    decided_at_progress: int = 0
