"""One decision: a snapshot goes in; tokens, wait, or a refusal comes out. Pure: nothing is written here.

1. The final answer's reserve is brought up to date (`reserves`). What is left above it is what the call may
   hold; a final call has the reserve too. Of that, the calls that wait behind it keep what they need for the
   smallest answer, and before thinking what they are expected to need: nobody thinks at the cost of another's
   answer.
2. If not even the minimum (no thinking, its solution) fits: `degrade`.
3. Otherwise the policy chooses the thinking (`capacity.plan`). What it wants may be more than can be held at
   this instant, since holds are worst cases: then the room is shared out between thinking and solution, where
   it is known how long solutions are; and the call waits for refunds if the difference is worth it.
"""

from __future__ import annotations

from ..latency.slack import SAFETY, CallWindow, Timing
from ..ledger.amounts import INFINITY, Room
from .capacity import largest_thinking, plan
from .decision import Allocation, Decision, Refusal, Wait
from .degrade import degrade
from .grant import amounts
from .headroom import Headroom, work_out
from .snapshot import Snapshot

WORTH_WAITING = 0.05
"""A call waits for refunds when thinking less would cost it more than this share of its success."""


SHARES = 12
"""Solutions are sized in so many steps."""


class Allocator:
    """Decides on calls; keeps nothing between decisions.

    Args:
        timing: how careful to be with deadlines.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    def decide(self, snapshot: Snapshot) -> Decision:
        """What the snapshot's call gets, and how reserves change."""
        headroom = work_out(snapshot, self._timing)
        return Decision(headroom.moves, self._outcome(headroom))

    def _outcome(self, headroom: Headroom) -> Allocation | Wait | Refusal:
        request, in_time, keep = headroom.request, headroom.in_time, headroom.queued_minimum
        if headroom.now >= headroom.end - SAFETY:
            seconds = headroom.end - headroom.now, headroom.seconds_for(headroom.least)
            return Refusal(headroom, headroom.left, headroom.least, seconds)
        fits = largest_thinking(request, in_time, headroom.room(keep)) if in_time else -1
        if in_time < headroom.least or fits < 0:
            return degrade(headroom)
        if headroom.queued_demand is not keep:
            fits = largest_thinking(request, in_time, headroom.room(headroom.queued_demand))
        return self._think(headroom, max(0, fits))

    def _think(self, headroom: Headroom, holdable: int) -> Allocation | Wait:
        """How much a call thinks whose smallest answer fits, or the refunds for which it waits.

        Args:
            holdable: thinking tokens that can be held now.
        """
        request, solution = headroom.request, headroom.in_time
        most = self._most_in_time(headroom)
        short_of_time = most < request.size.thinking
        chosen = plan(headroom, most)
        wanted = most if chosen is None else min(most, chosen.choice.thinking)
        thinking = wanted if wanted <= holdable else request.curve.best(holdable)
        if thinking < wanted:
            room = headroom.room(headroom.queued_demand)
            thinking, solution, chance = share_out(headroom, wanted, room)
            if (wait := _wait_for_refunds(headroom, room, chance, wanted)) is not None:
                return wait
            why: object = _shared_out(headroom, room, thinking, solution, wanted)
        elif chosen is None:
            why = "no cap binds it"
        elif short_of_time and wanted == most:
            why = f"the deadline leaves time for {most} thinking tokens"
        else:
            why = chosen.choice.why
        return Allocation(
            headroom,
            thinking,
            solution,
            request.terms.final,
            headroom.rest,
            why,
            {"wanted": wanted, "most": most, "holdable": holdable, "behind": headroom.queued_demand.tokens},
            request.worst(thinking, solution),
            headroom.hold_until(thinking, solution, request.terms.final),
            chosen,
            thinking < wanted,
        )

    def _most_in_time(self, headroom: Headroom) -> int:
        """The most thinking tokens that the call may have, by its own limit and by time."""
        most, speed = headroom.request.size.thinking, headroom.speed
        if headroom.end == INFINITY or speed is None:
            return most
        window = CallWindow(headroom.now, headroom.end, headroom.snapshot.span)
        until = self._timing.think_until(window, headroom.rest, speed)
        return min(most, int(headroom.fits_in(until - headroom.now)))


def share_out(headroom: Headroom, wanted: int, room: Room) -> tuple[int, int, float]:
    """The best thinking and solution that this room holds, and the chance that such a call is right.

    Where it is known how long solutions are, a smaller one may make room for more thinking: the last
    tokens of a solution's limit are hardly ever used, and come back too late for the call itself.
    """
    request, curve, asked = headroom.request, headroom.request.curve, headroom.in_time
    bias = request.model.usage_stats.bias
    sized = bool(curve.right_solutions) and request.terms.on_exhausted == "shrink"
    best = 0, asked, 0.0
    for part in range(SHARES, 0 if sized else SHARES - 1, -1):
        solution = max(headroom.least, asked * part // SHARES)
        thinking = curve.best(max(0, min(wanted, largest_thinking(request, solution, room))))
        chance = curve.p(thinking) * curve.fit_probability(thinking, solution / bias)
        if chance > best[2]:
            best = thinking, solution, chance
    return best


def _shared_out(headroom: Headroom, room: Room, thinking: int, solution: int, wanted: int) -> str:
    """Why a call has less than was planned."""
    most_now = largest_thinking(headroom.request, solution, room)
    why = f"{max(0, most_now)} of {wanted} planned tokens can be held now"
    if thinking < most_now:
        why = f"{why}, and no more than {thinking} of these gain anything"
    if solution < headroom.in_time:
        why = f"{why}; the solution is cut from {headroom.in_time} to {solution}"
    return why


def _wait_for_refunds(headroom: Headroom, room: Room, chance: float, wanted: int) -> Wait | None:
    """Wait when refunds that are due would make this call clearly better, and time allows.

    Args:
        chance: that the call is right with what can be held now.
    """
    request, accounts, tasks = headroom.request, headroom.moves.accounts, headroom.snapshot.tasks
    top = accounts[-1]
    if request.terms.on_exhausted == "raise" or not top.live:
        return None
    due = tasks[0].expected_refund
    if len(accounts) > len(tasks):  # shared with other tasks, whose calls may give back all they hold
        due = due.max(top.held - top.reserved)
    thinking, solution, hope = share_out(headroom, wanted, room.with_freed(due))
    if chance > (1 - WORTH_WAITING) * hope:
        return None
    if headroom.end < INFINITY:
        left, speed = headroom.end - headroom.now, headroom.speed
        if speed is None or left < 4 * speed.answer(thinking + headroom.in_time, request.size.fresh, 2):
            return None
    where = headroom.short_account(request.worst(thinking, solution), headroom.queued_demand)
    if where is None:
        return None
    why = (
        f"{wanted} thinking tokens are planned and cannot be held now; running calls hold "
        f"{amounts(where.held)} and are expected to give a part of it back"
    )
    return Wait(why, where.id, headroom.retry_at())
