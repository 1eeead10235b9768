"""The answer to one request: an allocation, a wait, or a refusal. All are values; `dispatch` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError, DeadlineError

from ..latency.slack import RemainingWork
from ..ledger.amounts import INFINITY, Amount, Room
from .capacity import Plan
from .grant import amounts, left, left_text
from .headroom import Headroom
from .reserves import ReserveMoves


class Allocation(NamedTuple):
    """What a call gets.

    Attributes:
        headroom: from which this was decided.
        thinking, solution: the call's budget.
        last: the call takes the final answer's reserve.
        rest: what happens in time after the call's thinking.
        why, numbers: the reason, in words (`str` of it) and for programs.
        hold: what to hold: the worst case of exactly this budget. `until`: when the call has to be over.
        plan: the policy's part of it; None where no policy was asked.
        short: more thinking was planned, and can't be held now.
    """

    headroom: Headroom
    thinking: int
    solution: int
    last: bool
    rest: RemainingWork
    why: object
    numbers: Mapping[str, Any]
    hold: Amount
    until: float
    plan: Plan | None = None
    short: bool = False


class Wait(NamedTuple):
    """Not now: running calls may give back what an account lacks. Ask again at `until` at the latest."""

    why: str
    account: str
    until: float


class Refusal(NamedTuple):
    """There is no room for the smallest acceptable answer.

    Attributes:
        room: what there is.
        solution: tokens of the smallest acceptable one.
        seconds: (left, needed by the smallest answer), where only time is short.
    """

    headroom: Headroom
    room: Room
    solution: int
    seconds: tuple[float, float] | None = None

    def error(self) -> CapExceededError:
        """The error, with what is needed and what there is, and the account that binds."""
        return self._late(*self.seconds) if self.seconds is not None else self._too_little()

    def _too_little(self) -> CapExceededError:
        headroom, request, room = self.headroom, self.headroom.request, self.room
        task, money, now = request.task, room.nano is not None, headroom.now
        smallest = request.worst(0, self.solution)
        there = left(room, now)
        needed: dict[str, float] = {}
        if room.tokens is not None:
            needed["tokens"] = smallest.tokens
        if money:
            needed["usd"] = float(to_usd(smallest.nano))
        if room.deadline < INFINITY and headroom.speed is not None:
            needed["seconds"] = headroom.seconds_for(self.solution)
        short = {unit for unit in needed if needed[unit] > there[unit]}
        if headroom.in_time < headroom.least and (
            short <= {"seconds"} or headroom.short_account(smallest) is not None
        ):
            return self._late(room.deadline - now, needed.get("seconds", 0.0))
        unspent = "" if task.status.admitted else " (no token of this task has been spent)"
        unit = next((unit for unit in needed if unit in short), next(iter(needed), "tokens"))
        bound = task.binding(unit, now)
        raised = "the cap" if bound is None else f"{bound.argument}= of {bound.account!r}"
        hint = ""
        if request.terms.final and task.status.answered:
            hint = (
                "; or declare it at the opening (expect={'final': 1}), and no other call takes what is kept"
            )
        return CapExceededError(
            f"task {task.name!r}, call {request.number} ({request.terms.kind}): the smallest answer needs "
            f"{amounts(smallest, nano=money)}; left: {left_text(room, now)}{unspent}. "
            f"{'' if bound is None else f'{bound}. '}Raise {raised}, "
            f"shorten the prompt ({request.size.prompt} tokens) or lower the solution budget{hint}",
            needed=needed,
            available=there,
            binding=bound,
        )

    def _late(self, available: float, needed: float) -> DeadlineError:
        request, there = self.headroom.request, max(0.0, available)
        task = request.task
        bound = task.binding("seconds", self.headroom.now)
        return DeadlineError(
            f"task {task.name!r}, call {request.number} ({request.terms.kind}): {there:.3f} s are left and "
            f"the smallest answer needs {needed:.3f} s at the present speed. "
            f"{'' if bound is None else f'{bound}; '}raise seconds= or make fewer calls",
            needed={"seconds": needed},
            available={"seconds": there},
            binding=bound,
        )


class Decision(NamedTuple):
    """An answer, and the reserves that change with it: also with a wait or a refusal."""

    moves: ReserveMoves
    outcome: Allocation | Wait | Refusal
