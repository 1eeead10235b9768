"""One decision: this call, this state of the books, this moment -> tokens, or wait, or an error.

1. The final answer's reserve is brought up to date. What is left above it is what the call may hold; a final
   call has the reserve too.
2. If not even a floor (no thinking, its solution) fits: wait while running calls may give enough back; when
   they can't, take a smaller solution; at last take the reserve: the last call that fits is the answer.
   Nothing fits: refused, with the numbers.
3. Otherwise the policy chooses the thinking (`plan`). What it wants may be more than can be held at this
   instant, since holds are worst cases: the call waits for refunds if the difference is worth it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError, DeadlineError
from elastic_agent.scheduler.grant import amounts, left, left_text
from elastic_agent.scheduler.latency import Speed
from elastic_agent.scheduler.ledger import INFINITY, NOTHING, Account, Amount, Ledger, Room
from elastic_agent.scheduler.plan import after, largest_solution, largest_thinking, plan, reserve_for
from elastic_agent.scheduler.request import Request
from elastic_agent.scheduler.timing import SAFETY, After, Timing

WORTH_WAITING = 0.05
"""A call waits for refunds rather than think less when thinking less would cost it this share of its success."""


class Wait(Exception):
    """Not now: running calls may give back what is lacking. `account` is where it lacks, `until` when to ask again."""

    def __init__(self, why: str, account: Account, until: float) -> None:
        super().__init__(why)
        self.account = account
        self.until = until


@dataclass(frozen=True, slots=True)
class Decided:
    """What a call gets.

    Attributes:
        thinking, solution: its budget.
        last: it takes the final answer's reserve.
        reserve: what has to be added to the reserve beside it.
        end: when the task has to be over; infinity without a deadline.
        rest: what happens in time after its thinking.
        speed: the endpoint's, at this moment.
        why, numbers: the reason, in words and for programs.
    """

    thinking: int
    solution: int
    last: bool
    reserve: Amount
    end: float
    rest: After
    speed: Speed | None
    why: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Decider:
    """Decides for one desk.

    Args:
        stuck: ids of holds whose consumer waits for a call in the queue: they can't give anything back.
    """

    def __init__(self, ledger: Ledger, timing: Timing, stuck: Container[str]) -> None:
        self.ledger = ledger
        self.timing = timing
        self._stuck = stuck

    def decide(self, request: Request, now: float) -> Decided:
        """See the module.

        Raises:
            Wait: not now.
            CapExceededError, DeadlineError: refused.
        """
        book, speed = request.book, request.latency.speed()
        book.largest_prompt = max(book.largest_prompt, request.prompt)
        lacking = self._reserve(request, speed)
        rest = after(request, request.solution)
        end = self.ledger.deadline(book.account, final=True)
        if now >= end - SAFETY:
            raise _late(request, now, end, 0.0 if speed is None else speed.answer(request.least_solution()))
        in_time = self._in_time(request, now, end, speed, rest)
        room = _less(self.ledger.room(book.account, final=request.final), lacking)
        if in_time < request.least_solution() or largest_thinking(request, in_time, room) < 0:
            decided = self._exhausted(request, room, now, in_time, end, speed)
        else:
            decided = self._allocate(request, room, now, speed, end, replace(rest, solution=in_time))
        return replace(decided, reserve=NOTHING if decided.last else lacking)

    def _reserve(self, request: Request, speed: Speed | None) -> Amount:
        """Bring the time kept for final answers up to date; returns what this task's reserve lacks in tokens and
        money, which has to come out of what is left."""
        book = request.book
        target = NOTHING if book.answered else reserve_for(request)
        for level in book.levels():
            level.account.tail = 0.0 if level.answered else self.timing.tail(speed, level.final_size)
        return NOTHING if request.final else target.most(book.account.reserve) - book.account.reserve

    def _in_time(self, request: Request, now: float, end: float, speed: Speed | None, rest: After) -> int:
        """The solution tokens that the time holds beside the final answer's, at most what was asked for."""
        if end == INFINITY or speed is None:
            return request.solution
        tail = self.timing.tail(speed, rest.final) if rest.final else SAFETY
        fits = int((end - tail - now - speed.ttft) / max(speed.tpot, 1e-9))
        if request.final:  # an admitted task gets its answer while there is any time at all
            fits = max(fits, request.least_solution())
        return max(0, min(fits, request.solution))

    def _allocate(
        self, request: Request, room: Room, now: float, speed: Speed | None, end: float, rest: After
    ) -> Decided:
        """A call whose floor fits: how much it thinks."""
        most, solution, short_of_time = request.thinking, rest.solution, False
        if end < INFINITY and speed is not None:
            until = self.timing.think_until(now, end, rest, speed)
            in_time = max(0, int((until - now - speed.ttft) / max(speed.tpot, 1e-9)))
            short_of_time, most = in_time < most, min(most, in_time)
        chosen = plan(request, self.ledger, now, speed, most, rest)
        wanted = most if chosen is None else min(most, chosen.choice.thinking)
        holdable = largest_thinking(request, solution, room)
        thinking = wanted if wanted <= holdable else request.curve.best(holdable)
        if thinking < wanted:
            self._maybe_wait(request, thinking, wanted, solution, now, speed, end)
            why = f"{wanted} were planned, no more than {holdable} can be held now"
        elif chosen is None:
            why = "no cap binds it"
        elif short_of_time and wanted == most:
            why = f"the deadline allows no more than {most}; {chosen.choice.why}"
        else:
            why = chosen.choice.why
        numbers = {
            "wanted": wanted,
            "most": most,
            "holdable": holdable,
            **(chosen.numbers() if chosen else {}),
        }
        return Decided(thinking, solution, request.final, NOTHING, end, rest, speed, why, numbers)

    def _maybe_wait(
        self,
        request: Request,
        thinking: int,
        wanted: int,
        solution: int,
        now: float,
        speed: Speed | None,
        end: float,
    ) -> None:
        """Wait when refunds that are due would make this call clearly better, and time allows."""
        curve = request.curve
        if request.on_exhausted == "raise" or curve.p(thinking) > (1 - WORTH_WAITING) * curve.p(wanted):
            return
        if end < INFINITY and (speed is None or end - now < 4 * speed.answer(wanted + solution, 2)):
            return
        where = self._may_come_back(request, request.cost(request.worst(wanted, solution)))
        if where is not None:
            back = amounts(where.held)
            raise Wait(
                f"{wanted} thinking tokens are planned and {thinking} could be held now; running calls hold {back} "
                f"and are expected to give a part of it back",
                request.book.account,
                _ask_again(now, end),
            )

    def _exhausted(
        self, request: Request, room: Room, now: float, in_time: int, end: float, speed: Speed | None
    ) -> Decided:
        """Not even the floor fits."""
        book, least = request.book, request.least_solution()
        late = in_time < least
        money = room.nano is not None
        need = request.cost(request.worst(0, in_time))
        if not late and request.on_exhausted != "raise":
            where = self._may_come_back(request, need)
            if where is not None:
                raise Wait(
                    f"{amounts(need, nano=money)} needed without any thinking, {left_text(room, now)} left above "
                    f"the reserve; running calls may give back enough",
                    where,
                    _ask_again(now, end),
                )
        if request.on_exhausted == "shrink":
            fits = 0 if late else min(in_time, largest_solution(request, room))
            if fits >= least:
                why = f"there is no room for thinking; the solution shrinks from {request.solution} to {fits}"
                return Decided(0, fits, request.final, NOTHING, end, After(fits), speed, why)
            room = self.ledger.room(book.account, final=True)
            fits = largest_solution(request, room)
            if end < INFINITY and speed is not None:
                fits = min(fits, int((end - now - SAFETY - speed.ttft) / max(speed.tpot, 1e-9)))
            if fits >= least:
                why = "the last call that fits: it takes the final answer's reserve"
                return Decided(0, fits, True, NOTHING, end, After(fits), speed, why)
        smallest = request.cost(
            request.worst(0, least if request.on_exhausted == "shrink" else request.solution)
        )
        there, needed = left(room, now), _needed(smallest, room, speed, least)
        short = [unit for unit in needed if needed[unit] > there[unit]]
        if late and (set(short) <= {"seconds"} or self._may_come_back(request, smallest) is not None):
            raise _late(request, now, room.deadline, needed.get("seconds", 0.0))
        unspent = "" if book.admitted else " (no token of this task has been spent)"
        raise CapExceededError(
            f"task {book.name!r}, call {request.number} ({request.kind}): the smallest answer needs "
            f"{amounts(smallest, nano=money)}; left: {left_text(room, now)}{unspent}. Raise the cap, shorten the "
            f"prompt ({request.prompt} tokens) or lower the solution budget",
            needed=needed,
            available=there,
        )

    def _may_come_back(self, request: Request, need: Amount) -> Account | None:
        """Where `need` is lacking, if running calls could make room for it on the whole path by giving back all."""
        where: Account | None = None
        for account in request.book.account.path():
            extra = account.reserve if request.final and account is request.book.account else NOTHING
            free = extra + Amount(
                need.tokens
                if account.tokens is None
                else account.tokens - account.spent.tokens - account.held.tokens,
                need.nano if account.nano is None else account.nano - account.spent.nano - account.held.nano,
            )
            if free.tokens >= need.tokens and free.nano >= need.nano:
                continue
            for hold in account.live.values():
                if hold.id not in request.around and hold.id not in self._stuck:
                    free += hold.amount
                    if free.tokens >= need.tokens and free.nano >= need.nano:
                        break
            else:
                return None
            where = account
        return where


def _ask_again(now: float, end: float) -> float:
    """A waiting call is decided again half-way to its deadline, and again."""
    return INFINITY if end == INFINITY else now + max(0.5 * (end - now), SAFETY)


def _late(request: Request, now: float, end: float, needed: float) -> DeadlineError:
    there = max(0.0, end - now)
    return DeadlineError(
        f"task {request.book.name!r}, call {request.number} ({request.kind}): {there:.3f} s are left and the "
        f"smallest answer needs {needed:.3f} s at the present speed; raise seconds= or make fewer calls",
        needed={"seconds": needed},
        available={"seconds": there},
    )


def _less(room: Room, amount: Amount) -> Room:
    return Room(
        None if room.tokens is None else room.tokens - amount.tokens,
        None if room.nano is None else room.nano - amount.nano,
        room.deadline,
    )


def _needed(need: Amount, room: Room, speed: Speed | None, solution: int) -> dict[str, float]:
    """What the smallest answer takes, in the units that are capped."""
    found: dict[str, float] = {}
    if room.tokens is not None:
        found["tokens"] = need.tokens
    if room.nano is not None:
        found["usd"] = float(to_usd(need.nano))
    if room.deadline < INFINITY and speed is not None:
        found["seconds"] = speed.answer(solution)
    return found
