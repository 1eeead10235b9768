"""What happens on shortage: a call waits, shrinks, is the last one, or is refused."""

from __future__ import annotations

from elastic_agent.errors import CapExceededError, DeadlineError

from ..estimates.workload import FINAL
from ..latency.model import Speed
from ..latency.slack import SAFETY, RemainingWork
from ..ledger.amounts import NOTHING
from .capacity import largest_solution
from .decision import Allocation, Refusal, Wait
from .grant import amounts, left_text
from .headroom import Headroom
from .task_state import TaskState


def degrade(headroom: Headroom) -> Allocation | Wait | Refusal:
    """What becomes of a call that can't be held whole, in this order:

    1. It waits, as long as running calls may give back enough.
    2. Its solution shrinks into what is left, first beside the smallest answers of the calls behind it, then
       without regard to them (first come, first served).
    3. It takes the final answer's reserve: the last call that fits is the answer. Not where the task has
       declared a final call that is still to come.
    4. It is refused. `on_exhausted="raise"` doesn't wait; only `shrink` takes less than asked.
    """
    request, least, in_time = headroom.request, headroom.least, headroom.in_time
    shrinks = request.terms.on_exhausted == "shrink"
    if in_time >= least:
        if request.terms.on_exhausted != "raise" and (wait := _wait(headroom)) is not None:
            return wait
        for keep in (headroom.queued_minimum, NOTHING):
            fits = min(in_time, largest_solution(request, headroom.room(keep)))
            if fits >= (least if shrinks else in_time):
                why = "there is no room for thinking"
                if fits < request.size.solution:
                    why += f", and the solution is cut from {request.size.solution} to {fits}"
                return without_thinking(headroom, fits, request.terms.final, why)
    room = headroom.room()
    if shrinks and (request.terms.final or FINAL not in headroom.task.calls.own):
        room = headroom.room(last=True)
        seconds = headroom.end - headroom.now - SAFETY
        fits = int(min(largest_solution(request, room), headroom.fits_in(seconds)))
        if fits >= least:
            why = "the last call that fits: it takes the final answer's reserve"
            return without_thinking(headroom, fits, True, why)
    return Refusal(headroom, room, least if shrinks else request.size.solution)


def without_thinking(headroom: Headroom, solution: int, last: bool, why: str) -> Allocation:
    """An allocation of a solution alone."""
    request = headroom.request
    return Allocation(
        headroom,
        0,
        solution,
        last,
        RemainingWork(solution, prompt=request.size.prompt),
        why,
        {},
        request.worst(0, solution),
        headroom.hold_until(0, solution, last),
    )


def _wait(headroom: Headroom) -> Wait | None:
    request, keep = headroom.request, headroom.queued_minimum
    need = request.worst(0, headroom.in_time)
    where = headroom.short_account(need, keep)
    if where is None:
        return None
    room = headroom.room(keep)
    why = (
        f"{amounts(need, nano=room.nano is not None)} needed without any thinking, "
        f"{left_text(room, headroom.now)} free above what is reserved; running calls may give that back"
    )
    return Wait(why, where.id, headroom.retry_at())


def too_small(
    task: TaskState, now: float, seconds: float, speed: Speed | None, close: int
) -> CapExceededError | None:
    """The error for a task whose caps alone show that they can't hold one answer, or None.

    Args:
        now: the moment.
        seconds: what the task has at most.
        speed: of the model that the task will probably use, if known.
        close: tokens of that model's close.
    """
    tokens, size = task.account.tokens, task.final_answer.size
    if tokens is not None and tokens < close + size:
        return CapExceededError(
            f"task {task.name!r}: {tokens} tokens can't hold one answer: the close ({close}) and a solution "
            f"of {size} need {close + size}; raise tokens= or lower final_solution=",
            needed={"tokens": close + size},
            available={"tokens": tokens},
        )
    if speed is not None and seconds < (takes := speed.answer(size, 0) + SAFETY):
        bound = task.binding("seconds", now)
        return DeadlineError(
            f"task {task.name!r}: {seconds:.3f} s can't hold one answer of {size} tokens: at the present "
            f"speed it takes {takes:.3f} s. {'' if bound is None else f'{bound}; '}raise seconds= or lower "
            f"final_solution=",
            needed={"seconds": takes},
            available={"seconds": seconds},
            binding=bound,
        )
    return None
