"""Where there is no room: a call waits, shrinks, is the last one, or is refused with the numbers."""

from __future__ import annotations

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError, DeadlineError

from ..estimates.workload import FINAL
from ..latency.model import Speed
from ..latency.slack import SAFETY, RemainingWork
from ..ledger.amounts import INFINITY, NOTHING, Room
from ..ledger.binding import binding
from .capacity import largest_solution
from .grant import amounts, left, left_text
from .request import TaskState
from .snapshot import Allocation, Snapshot, Wait


def exhausted(snapshot: Snapshot) -> Allocation:
    """What becomes of the call, in this order:

    1. It waits, as long as running calls may give back enough.
    2. Its solution shrinks into what is left, first beside the smallest answers of the calls behind it, then
       without regard to them (first come, first served).
    3. It takes the final answer's reserve: the last call that fits is the answer. Not where the task has
       declared a final call that is still to come.

    Raises:
        Wait: not now.
        CapExceededError, DeadlineError: refused. `raise` doesn't wait; only `shrink` takes less than asked.
    """
    request = snapshot.request
    task, least = request.task, request.least_solution()
    in_time = snapshot.in_time >= least
    shrinks = request.on_exhausted == "shrink"
    if in_time and request.on_exhausted != "raise":
        need = request.worst(0, snapshot.in_time)
        where = snapshot.may_come_back(need, snapshot.kept)
        if where is not None:
            room = snapshot.room(snapshot.kept)
            raise Wait(
                f"{amounts(need, nano=room.nano is not None)} needed without any thinking, "
                f"{left_text(room, snapshot.now)} free above what is reserved; running calls may give that "
                f"back",
                where,
                snapshot.ask_again(),
            )
    if in_time:
        enough = least if shrinks else snapshot.in_time
        for keep in (snapshot.kept, NOTHING):
            fits = min(snapshot.in_time, largest_solution(request, snapshot.room(keep)))
            if fits >= enough:
                why = "there is no room for thinking"
                if fits < request.solution:
                    why += f", and the solution is cut from {request.solution} to {fits}"
                return Allocation(0, fits, request.final, RemainingWork(fits, prompt=request.prompt), why)
    room = snapshot.room()
    if shrinks and (request.final or FINAL not in task.forecast.own):
        room = snapshot.room(last=True)
        fits = int(
            min(largest_solution(request, room), snapshot.fits_in(snapshot.end - snapshot.now - SAFETY))
        )
        if fits >= least:
            why = "the last call that fits: it takes the final answer's reserve"
            return Allocation(0, fits, True, RemainingWork(fits, prompt=request.prompt), why)
    raise _refusal(snapshot, room, least if shrinks else request.solution)


def _refusal(snapshot: Snapshot, room: Room, solution: int) -> CapExceededError:
    """The error, with what the smallest acceptable answer needs and what there is, by unit."""
    request, money = snapshot.request, room.nano is not None
    smallest = request.worst(0, solution)
    there = left(room, snapshot.now)
    needed: dict[str, float] = {}
    if room.tokens is not None:
        needed["tokens"] = smallest.tokens
    if money:
        needed["usd"] = float(to_usd(smallest.nano))
    if room.deadline < INFINITY and snapshot.speed is not None:
        needed["seconds"] = snapshot.seconds_for(solution)
    short = {unit for unit in needed if needed[unit] > there[unit]}
    if snapshot.in_time < request.least_solution() and (
        short <= {"seconds"} or snapshot.may_come_back(smallest) is not None
    ):
        return snapshot.late(room.deadline - snapshot.now, needed.get("seconds", 0.0))
    unspent = "" if request.task.admitted else " (no token of this task has been spent)"
    unit = next((unit for unit in needed if unit in short), next(iter(needed), "tokens"))
    bound = binding(
        request.task.account.path, {b.account.id for b in request.task.lineage}, unit, snapshot.now
    )
    raised = "the cap" if bound is None else f"{bound.argument}= of {bound.account!r}"
    hint = ""
    if request.final and request.task.answered:
        hint = "; or declare it at the opening (expect={'final': 1}), and no other call takes what is kept"
    return CapExceededError(
        f"task {request.task.name!r}, call {request.number} ({request.kind}): the smallest answer needs "
        f"{amounts(smallest, nano=money)}; left: {left_text(room, snapshot.now)}{unspent}. "
        f"{'' if bound is None else f'{bound}. '}Raise {raised}, "
        f"shorten the prompt ({request.prompt} tokens) or lower the solution budget{hint}",
        needed=needed,
        available=there,
        binding=bound,
    )


def too_small(
    task: TaskState, now: float, seconds: float, speed: Speed | None, close: int
) -> CapExceededError | None:
    """The error for a task whose caps alone show that they can't hold one answer, or None.

    Args:
        now: the moment.
        seconds: what it has at most.
        speed: of the model that it will probably use, if known.
        close: tokens of that model's close.
    """
    tokens, size = task.account.tokens, task.final_size
    if tokens is not None and tokens < close + size:
        return CapExceededError(
            f"task {task.name!r}: {tokens} tokens can't hold one answer: the close ({close}) and a solution "
            f"of {size} need {close + size}; raise tokens= or lower final_solution=",
            needed={"tokens": close + size},
            available={"tokens": tokens},
        )
    if speed is not None and seconds < (takes := speed.answer(size, 0) + SAFETY):
        bound = binding(task.account.path, {level.account.id for level in task.lineage}, "seconds", now)
        return DeadlineError(
            f"task {task.name!r}: {seconds:.3f} s can't hold one answer of {size} tokens: at the present "
            f"speed it takes {takes:.3f} s. {'' if bound is None else f'{bound}; '}raise seconds= or lower "
            f"final_solution=",
            needed={"seconds": takes},
            available={"seconds": seconds},
            binding=bound,
        )
    return None
