"""One decision's facts: the call, the moment, what is left for it, and what running calls may give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from elastic_agent.errors import DeadlineError

from ..latency.model import Speed
from ..latency.slack import SAFETY, RemainingWork
from ..ledger.accounts import Account
from ..ledger.amounts import INFINITY, NOTHING, Amount, Room
from ..ledger.binding import binding
from ..ledger.ledger import Ledger
from .demand import Floors, Outlook
from .request import Request

if TYPE_CHECKING:
    from .capacity import Plan


class Wait(Exception):
    """Not now: running calls may give back what `account` lacks. Ask again at `until` at the latest."""

    def __init__(self, why: str, account: Account, until: float) -> None:
        super().__init__(why)
        self.account = account
        self.until = until


@dataclass(slots=True)
class Allocation:
    """What a call gets.

    Attributes:
        thinking, solution: its budget.
        last: it takes the final answer's reserve.
        short: more thinking was planned, and can't be held now.
        rest: what happens in time after its thinking.
        why, numbers: the reason, in words (`str` of it) and for programs.
        plan: the policy's part of it; None where no policy was asked.
    """

    thinking: int
    solution: int
    last: bool
    rest: RemainingWork
    why: object
    numbers: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    short: bool = False


@dataclass(slots=True, eq=False)
class Snapshot:
    """What is known when a call is decided.

    Attributes:
        left: what a last call could hold: the reserve is in it.
        end: when the task has to be over; infinity without a deadline.
        speed: the endpoint's, at this moment.
        outlook: the calls still to come in this task.
        floors: what calls use when they don't think.
        rest: what has to happen in time after the call's thinking.
        in_time: solution tokens that the time holds.
        lacking: what the final answer's reserve still lacks.
        above: what tasks around this one lack for the final answers that they have declared.
        kept: the smallest answers of the calls that wait behind this one.
        answers: what these are expected to need for their answers.
        stuck: holds whose consumer waits for a call in the queue: they can't give anything back.
        own: what the call holds already, where it is decided on once more.
    """

    request: Request
    ledger: Ledger
    now: float
    left: Room
    end: float
    speed: Speed | None
    outlook: Outlook
    floors: Floors
    rest: RemainingWork
    in_time: int
    lacking: Amount
    above: Amount
    kept: Amount
    answers: Amount
    stuck: Mapping[str, int]
    own: Amount = NOTHING

    def room(self, keep: Amount = NOTHING, *, last: bool = False) -> Room:
        """What the call may hold above the reserve, and above what is kept for others; a last call has it."""
        above, lacking, reserve = self.above, self.lacking, self.request.task.account.reserve
        if last:
            lacking = reserve = NOTHING
        elif self.request.final:
            reserve = NOTHING
        tokens, nano, _ = self.left
        if tokens is not None:
            tokens -= above.tokens + keep.tokens + lacking.tokens + reserve.tokens
        if nano is not None:
            nano -= above.nano + keep.nano + lacking.nano + reserve.nano
        return Room(tokens, nano, self.end_of(last or self.request.final))

    def end_of(self, final: bool) -> float:
        """When the call has to be over: a final one at the end of its task, others before the final one."""
        return self.end if final else self.end - self.request.task.account.reserved_seconds

    def seconds_for(self, tokens: int) -> float:
        """An upper estimate for an answer of so many tokens; the least there is while nothing is known."""
        return SAFETY + (0.0 if self.speed is None else self.speed.answer(tokens, self.request.fresh))

    def fits_in(self, seconds: float) -> float:
        """Tokens of one pass in so much time."""
        if self.speed is None or seconds == INFINITY:
            return INFINITY
        start = self.speed.ttft + self.request.fresh * self.speed.prefill
        return max(0.0, (seconds - start) / max(self.speed.tpot, 1e-9))

    def ask_again(self) -> float:
        """A waiting call is decided again half-way to its deadline, and again."""
        return INFINITY if self.end == INFINITY else self.now + max(0.5 * (self.end - self.now), SAFETY)

    def may_come_back(self, need: Amount, keep: Amount = NOTHING) -> Account | None:
        """Where this call lacks `need`, if running calls, giving back all, would make room on the whole path.

        An account that could hold it, but not what is to be kept for others as well, lacks it too.
        """
        where: Account | None = None
        request = self.request
        for account in request.task.account.path:
            own = account is request.task.account
            less = self.above + (self.lacking if own else NOTHING)
            free = Amount(
                need.tokens
                if account.tokens is None
                else account.tokens - account.spent.tokens - account.held.tokens - less.tokens,
                need.nano
                if account.nano is None
                else account.nano - account.spent.nano - account.held.nano - less.nano,
            )
            if own and request.final:
                free += account.reserve
            wish = need + keep if own else need
            if _covers(free, account, wish):
                continue
            stuck = [hold for hold in account.live.values() if hold.call in self.stuck] if self.stuck else []
            back = account.held - account.reserved  # all live holds
            for hold in stuck:
                back -= hold.amount
            if len(stuck) == len(account.live) or not _covers(free + back, account, need):
                return None
            where = account
        return where

    def late(self, available: float, needed: float) -> DeadlineError:
        """The error for a call that can't make it."""
        request, there = self.request, max(0.0, available)
        lineage = request.task.lineage
        bound = binding(request.task.account.path, {b.account.id for b in lineage}, "seconds", self.now)
        return DeadlineError(
            f"task {request.task.name!r}, call {request.number} ({request.kind}): {there:.3f} s are left and "
            f"the smallest answer needs {needed:.3f} s at the present speed. "
            f"{'' if bound is None else f'{bound}; '}raise seconds= or make fewer calls",
            needed={"seconds": needed},
            available={"seconds": there},
            binding=bound,
        )


def _covers(free: Amount, account: Account, need: Amount) -> bool:
    """Whether what is free covers the need, in the units that this account caps."""
    return (account.tokens is None or free.tokens >= need.tokens) and (
        account.nano is None or free.nano >= need.nano
    )
