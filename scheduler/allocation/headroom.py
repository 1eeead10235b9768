"""What one call may take, worked out from a snapshot: tokens, money and time, and what is kept for others."""

from __future__ import annotations

from typing import NamedTuple

from ..latency.model import Speed
from ..latency.slack import SAFETY, RemainingWork, Timing
from ..ledger.amounts import INFINITY, NOTHING, Amount, Room
from .demand import RemainingDemand, queued, remaining_demand, work_after
from .request import Request
from .reserves import ReserveMoves, plan_reserves
from .snapshot import AccountView, Blocked, Snapshot, TaskView


class Headroom(NamedTuple):
    """What a call may take.

    Attributes:
        snapshot: from which all this was worked out; `request`, `now` and `speed` are the snapshot's.
        moves: the reserves that are brought up to date before the call gets anything.
        task: the call's own task, with what is known of the final answer by now.
        left: what a last call could hold, the reserve included.
        ends: by task of the lineage, when all calls but the final one have to be over.
        end: when the own task has to be over; infinity without a deadline.
        remaining: what is still to come in the own task.
        rest: what has to happen in time after the call's thinking.
        in_time: solution tokens for which there is time.
        least: the smallest solution that is worth the call.
        queued_minimum: the smallest answers of the calls that wait behind this one.
        queued_demand: what the calls that wait behind this one are expected to need for their answers.
    """

    snapshot: Snapshot
    request: Request
    now: float
    speed: Speed | None
    moves: ReserveMoves
    task: TaskView
    left: Room
    ends: tuple[float, ...]
    end: float
    remaining: RemainingDemand
    rest: RemainingWork
    in_time: int
    least: int
    queued_minimum: Amount
    queued_demand: Amount

    def room(self, keep: Amount = NOTHING, *, last: bool = False) -> Room:
        """What the call may hold beside what is kept for others; only a last call may use the reserve."""
        moves, final = self.moves, self.request.terms.final
        shortfall = NOTHING if last else moves.shortfall
        reserve = NOTHING if last or final else moves.accounts[0].reserve
        above, (tokens, nano, _) = moves.ancestor_shortfall, self.left
        if tokens is not None:
            tokens -= above.tokens + keep.tokens + shortfall.tokens + reserve.tokens
        if nano is not None:
            nano -= above.nano + keep.nano + shortfall.nano + reserve.nano
        return Room(tokens, nano, self.end_of(last or final))

    def end_of(self, final: bool) -> float:
        """When the call has to be over: a final one at the end of its task, others before the final one."""
        return self.end if final else self.ends[0]

    def seconds_for(self, tokens: int) -> float:
        """An upper estimate for an answer of so many tokens; the least there is while nothing is known."""
        return SAFETY + (0.0 if self.speed is None else self.speed.answer(tokens, self.request.size.fresh))

    def fits_in(self, seconds: float) -> float:
        """Tokens of one pass in so much time."""
        speed = self.speed
        if speed is None or seconds == INFINITY:
            return INFINITY
        start = speed.ttft + self.request.size.fresh * speed.prefill
        return max(0.0, (seconds - start) / max(speed.tpot, 1e-9))

    def hold_until(self, thinking: int, solution: int, last: bool) -> float:
        """When a call with this budget has to be over: after its estimated time, or at its deadline."""
        end, speed = self.end_of(last), self.speed
        if end == INFINITY or speed is None:
            return end
        passes = 2 if thinking else 1
        return min(end, self.now + speed.answer(thinking + solution, self.request.size.fresh, passes))

    def retry_at(self) -> float:
        """When a waiting call is decided on again: half-way to its deadline."""
        return INFINITY if self.end == INFINITY else self.now + max(0.5 * (self.end - self.now), SAFETY)

    def short_account(self, need: Amount, keep: Amount = NOTHING) -> AccountView | None:
        """Where this call lacks `need`, if running calls, giving back all, would make room on the whole path.

        An account that could hold it, but not what is to be kept for others as well, lacks it too.
        """
        where: AccountView | None = None
        moves, final = self.moves, self.request.terms.final
        for i, account in enumerate(moves.accounts):
            free = account.free - moves.ancestor_shortfall
            if i == 0:
                free -= moves.shortfall
                if final:
                    free += account.reserve
            if account.covers(free, need + keep if i == 0 else need):
                continue
            back, blocked = account.held - account.reserved, account.blocked or Blocked(NOTHING, 0)
            if blocked.holds == account.live or not account.covers(free + back - blocked.held, need):
                return None
            where = account
        return where


def work_out(snapshot: Snapshot, timing: Timing) -> Headroom:
    """The headroom of the snapshot's call."""
    request, moves = snapshot.request, plan_reserves(snapshot, timing)
    task = snapshot.tasks[0]
    if moves.final_answers[0] is not task.final_answer:
        task = task._replace(final_answer=moves.final_answers[0])
    terms = request.terms
    least = request.least_solution(task.final_answer.size)
    remaining = remaining_demand(request, task.calls.to_come(terms.kind, terms.final))
    ends, end = _ends(moves)
    after = moves.seconds[0] if task.reserving and not terms.final else SAFETY
    in_time = _solution_in_time(snapshot, end - after, least)
    rest = work_after(request, task, remaining, in_time)
    left = _left(moves, end, snapshot.holds)
    minimum, queue = queued(request, task, least)
    now, speed = snapshot.now, snapshot.speed
    return Headroom(
        snapshot,
        request,
        now,
        speed,
        moves,
        task,
        left,
        ends,
        end,
        remaining,
        rest,
        in_time,
        least,
        minimum,
        queue,
    )


def _left(moves: ReserveMoves, end: float, holds: Amount) -> Room:
    """What is free on the whole path, the own task's reserve, and what the call holds already."""
    tokens: int | None = None
    nano: int | None = None
    for account in moves.accounts:
        if account.tokens is not None:
            free = account.tokens - account.spent.tokens - account.held.tokens
            tokens = free if tokens is None or free < tokens else tokens
        if account.nano is not None:
            free = account.nano - account.spent.nano - account.held.nano
            nano = free if nano is None or free < nano else nano
    return Room(tokens, nano, end).with_freed(moves.accounts[0].reserve + holds)


def _ends(moves: ReserveMoves) -> tuple[tuple[float, ...], float]:
    """By task, when all its calls but the final one have to be over; and the end of the own task."""
    found, end, tasks = [], INFINITY, len(moves.seconds)
    before = INFINITY
    for i in range(len(moves.accounts) - 1, -1, -1):
        account = moves.accounts[i]
        end = min(account.deadline, before)
        before = end - (moves.seconds[i] if i < tasks else account.reserved_seconds)
        found.append(before)
    return tuple(reversed(found[-tasks:])), end


def _solution_in_time(snapshot: Snapshot, until: float, least: int) -> int:
    """Solution tokens that the call can write until then, at most those asked for.

    At the usual speed, or the present one where that is faster: a slowdown may be over before the answer is,
    and the answer must not be cut for it.
    """
    size, speed = snapshot.request.size, snapshot.speed
    if until == INFINITY or speed is None:
        return size.solution
    ttft, prefill = min(speed.ttft, speed.usual_ttft), min(speed.prefill, speed.usual_prefill)
    start, tpot = snapshot.now + ttft + size.fresh * prefill, min(speed.tpot, speed.usual_tpot)
    in_time = int(min(size.solution, max(0.0, (until - start) / max(tpot, 1e-9))))
    # An admitted task gets its answer while there is any time at all.
    return max(in_time, least) if snapshot.request.terms.final else in_time
