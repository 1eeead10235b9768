"""Where there is no room: a call waits, shrinks, is the last one, or is refused with the numbers."""

from __future__ import annotations

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError, DeadlineError

from ..estimates.workload import FINAL
from ..latency.model import Speed
from ..latency.slack import SAFETY, After
from ..ledger.amounts import INFINITY, NOTHING, Room
from ..ledger.binding import binding
from .capacity import largest_solution
from .grant import amounts, left, left_text
from .request import Book
from .snapshot import Case, Decided, Wait


def exhausted(case: Case) -> Decided:
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
    request = case.request
    book, least = request.book, request.least_solution()
    in_time = case.in_time >= least
    shrinks = request.on_exhausted == "shrink"
    if in_time and request.on_exhausted != "raise":
        need = request.worst(0, case.in_time)
        where = case.may_come_back(need, case.kept)
        if where is not None:
            room = case.room(case.kept)
            raise Wait(
                f"{amounts(need, nano=room.nano is not None)} needed without any thinking, "
                f"{left_text(room, case.now)} free above what is reserved; running calls may give that back",
                where,
                case.ask_again(),
            )
    if in_time:
        enough = least if shrinks else case.in_time
        for keep in (case.kept, NOTHING):
            fits = min(case.in_time, largest_solution(request, case.room(keep)))
            if fits >= enough:
                why = "there is no room for thinking"
                if fits < request.solution:
                    why += f", and the solution is cut from {request.solution} to {fits}"
                return Decided(0, fits, request.final, After(fits, prompt=request.prompt), why)
    room = case.room()
    if shrinks and (request.final or FINAL not in book.forecast.own):
        room = case.room(last=True)
        fits = int(min(largest_solution(request, room), case.fits_in(case.end - case.now - SAFETY)))
        if fits >= least:
            why = "the last call that fits: it takes the final answer's reserve"
            return Decided(0, fits, True, After(fits, prompt=request.prompt), why)
    raise _refusal(case, room, least if shrinks else request.solution)


def _refusal(case: Case, room: Room, solution: int) -> CapExceededError:
    """The error, with what the smallest acceptable answer needs and what there is, by unit."""
    request, money = case.request, room.nano is not None
    smallest = request.worst(0, solution)
    there = left(room, case.now)
    needed: dict[str, float] = {}
    if room.tokens is not None:
        needed["tokens"] = smallest.tokens
    if money:
        needed["usd"] = float(to_usd(smallest.nano))
    if room.deadline < INFINITY and case.speed is not None:
        needed["seconds"] = case.seconds_for(solution)
    short = {unit for unit in needed if needed[unit] > there[unit]}
    if case.in_time < request.least_solution() and (
        short <= {"seconds"} or case.may_come_back(smallest) is not None
    ):
        return case.late(room.deadline - case.now, needed.get("seconds", 0.0))
    unspent = "" if request.book.admitted else " (no token of this task has been spent)"
    unit = next((unit for unit in needed if unit in short), next(iter(needed), "tokens"))
    bound = binding(request.book.account.path, {b.account.id for b in request.book.levels}, unit, case.now)
    raised = "the cap" if bound is None else f"{bound.argument}= of {bound.account!r}"
    hint = ""
    if request.final and request.book.answered:
        hint = "; or declare it at the opening (expect={'final': 1}), and no other call takes what is kept"
    return CapExceededError(
        f"task {request.book.name!r}, call {request.number} ({request.kind}): the smallest answer needs "
        f"{amounts(smallest, nano=money)}; left: {left_text(room, case.now)}{unspent}. "
        f"{'' if bound is None else f'{bound}. '}Raise {raised}, "
        f"shorten the prompt ({request.prompt} tokens) or lower the solution budget{hint}",
        needed=needed,
        available=there,
        binding=bound,
    )


def too_small(
    book: Book, now: float, seconds: float, speed: Speed | None, close: int
) -> CapExceededError | None:
    """The error for a task whose caps alone show that they can't hold one answer, or None.

    Args:
        now: the moment.
        seconds: what it has at most.
        speed: of the model that it will probably use, if known.
        close: tokens of that model's close.
    """
    tokens, size = book.account.tokens, book.final_size
    if tokens is not None and tokens < close + size:
        return CapExceededError(
            f"task {book.name!r}: {tokens} tokens can't hold one answer: the close ({close}) and a solution "
            f"of {size} need {close + size}; raise tokens= or lower final_solution=",
            needed={"tokens": close + size},
            available={"tokens": tokens},
        )
    if speed is not None and seconds < (takes := speed.answer(size, 0) + SAFETY):
        bound = binding(book.account.path, {level.account.id for level in book.levels}, "seconds", now)
        return DeadlineError(
            f"task {book.name!r}: {seconds:.3f} s can't hold one answer of {size} tokens: at the present "
            f"speed it takes {takes:.3f} s. {'' if bound is None else f'{bound}; '}raise seconds= or lower "
            f"final_solution=",
            needed={"seconds": takes},
            available={"seconds": seconds},
            binding=bound,
        )
    return None
