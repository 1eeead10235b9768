"""One decision: this call, this state of the books, this moment -> tokens, or wait, or an error.

1. The final answer's reserve is brought up to date. What is left above it is what the call may hold; a final
   call has the reserve too. Of that, the calls that wait behind it keep what they need for the smallest
   answer, and before thinking what they are expected to need: nobody thinks at the cost of another's answer.
2. If not even a floor (no thinking, its solution) fits: `exhausted`.
3. Otherwise the policy chooses the thinking (`plan`). What it wants may be more than can be held at this
   instant, since holds are worst cases: then the room is shared out between thinking and solution, where it
   is known how long solutions are; and the call waits for refunds if the difference is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..estimates.workload import FINAL
from ..latency.model import Speed
from ..latency.slack import SAFETY, CallWindow, Timing
from ..ledger.amounts import INFINITY, NOTHING, Amount, Room
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from .capacity import after, largest_thinking, plan
from .degrade import exhausted
from .demand import Floors, behind, reserve_for
from .grant import amounts
from .request import Request
from .snapshot import Allocation, Snapshot, Wait

WORTH_WAITING = 0.05
"""A call waits for refunds when thinking less would cost it more than this share of its success."""


SHARES = 12
"""Solutions are sized in so many steps."""


class Allocator:
    """Decides for one desk.

    Args:
        stuck: ids of holds whose consumer waits for a call in the queue: they can't give anything back.
        pacing: the price of a pool that all tasks share; None: there is none.
    """

    def __init__(
        self, ledger: Ledger, timing: Timing, stuck: Mapping[str, int], pacing: Pacing | None = None
    ) -> None:
        self._ledger = ledger
        self._timing = timing
        self._stuck = stuck
        self._pacing = pacing

    def decide(self, request: Request, now: float, own: Amount = NOTHING) -> tuple[Snapshot, Allocation]:
        """See the module.

        Args:
            own: what it holds already.

        Returns:
            what was known, and what the call gets.

        Raises:
            Wait: not now.
            CapExceededError, DeadlineError: refused.
        """
        snapshot, least = self._case(request, now, own), request.least_solution()
        if now >= snapshot.end - SAFETY:
            raise snapshot.late(snapshot.end - now, snapshot.seconds_for(least))
        fits = (
            largest_thinking(request, snapshot.in_time, snapshot.room(snapshot.kept))
            if snapshot.in_time
            else -1
        )
        if snapshot.in_time < least or fits < 0:
            return snapshot, exhausted(snapshot)
        if snapshot.answers is not snapshot.kept:
            fits = largest_thinking(request, snapshot.in_time, snapshot.room(snapshot.answers))
        return snapshot, self._allocate(snapshot, max(0, fits))

    def _case(self, request: Request, now: float, own: Amount) -> Snapshot:
        task, speed = request.task, request.latency.speed()
        task.largest_prompt = max(task.largest_prompt, request.prompt)
        lacking = above = NOTHING
        if task.reserving:
            target = reserve_for(task, request)  # for a final call, too: it says how long the answer may be
            reserve = task.account.reserve
            if not (request.final or target is reserve):
                if target.fits_in(reserve):
                    self._ledger.reserve(task.account, target)  # it is known by now to need less
                else:
                    lacking = target.excess_over(reserve)
        for level in task.lineage:
            tail = 0.0
            if level.reserving:
                size = level.final_size
                tail = self._timing.final_answer_seconds(
                    speed, size, max(level.largest_prompt, request.prompt) + size
                )
            level.account.reserved_seconds = tail
        if task.parent is not None:
            above = self._keep_above(request)
        floors = Floors(request)
        outlook = floors.outlook(task.forecast.to_come(request.kind, request.final))
        rest = after(request, outlook, request.solution)
        left = self._ledger.room(task.account, final=True).with_freed(own)
        end, in_time = left.deadline, request.solution
        if end < INFINITY and speed is not None:
            tail = task.account.reserved_seconds if rest.final else SAFETY
            best = speed.best  # a slowdown may be over before the answer is: it must not be cut for it
            start = now + best.ttft + request.fresh * best.prefill
            in_time = int(min(in_time, max(0.0, (end - tail - start) / max(best.tpot, 1e-9))))
            if request.final:  # an admitted task gets its answer while there is any time at all
                in_time = max(in_time, request.least_solution())
            if in_time < request.solution:
                rest = rest._replace(solution=in_time)
        kept, answers = behind(request, floors)
        return Snapshot(
            request,
            self._ledger,
            now,
            left,
            end,
            speed,
            outlook,
            floors,
            rest,
            in_time,
            lacking,
            above,
            kept,
            answers,
            self._stuck,
            own,
        )

    def _keep_above(self, request: Request) -> Amount:
        """The tasks around this one keep their final answers before it gets its tokens.

        Returns what they lack for those that they have declared.
        """
        above = NOTHING
        for level in request.task.lineage[1:]:
            if level.reserving:
                wish = reserve_for(level, request).max(level.account.reserve)
                short = self._ledger.reserve(level.account, wish)
                if short is not None and FINAL in level.forecast.own:
                    above += wish - level.account.reserve
        return above

    def _allocate(self, snapshot: Snapshot, holdable: int) -> Allocation:
        """A call whose floor fits: how much it thinks."""
        request, speed, solution = snapshot.request, snapshot.speed, snapshot.in_time
        most, short_of_time = request.thinking, False
        if snapshot.end < INFINITY and speed is not None:
            window = CallWindow(snapshot.now, snapshot.end, request.task.account.span)
            until = self._timing.think_until(window, snapshot.rest, speed)
            in_time = int(snapshot.fits_in(until - snapshot.now))
            if in_time < most:
                short_of_time, most = True, in_time
        chosen = plan(snapshot, most, self._pacing)
        wanted = most if chosen is None else min(most, chosen.choice.thinking)
        thinking = wanted if wanted <= holdable else request.curve.best(holdable)
        if thinking < wanted:
            thinking, solution, chance = self._share_out(snapshot, wanted, snapshot.room(snapshot.answers))
            self._maybe_wait(snapshot, chance, wanted, speed)
            most_now = largest_thinking(request, solution, snapshot.room(snapshot.answers))
            why: object = f"{max(0, most_now)} of {wanted} planned tokens can be held now"
            if thinking < most_now:
                why = f"{why}, and no more than {thinking} of these gain anything"
            if solution < snapshot.in_time:
                why = f"{why}; the solution is cut from {snapshot.in_time} to {solution}"
        elif chosen is None:
            why = "no cap binds it"
        elif short_of_time and wanted == most:
            why = f"the deadline leaves time for {most} thinking tokens"
        else:
            why = chosen.choice.why
        numbers = {"wanted": wanted, "most": most, "holdable": holdable, "behind": snapshot.answers.tokens}
        short = thinking < wanted
        return Allocation(thinking, solution, request.final, snapshot.rest, why, numbers, chosen, short)

    def _share_out(self, snapshot: Snapshot, wanted: int, room: Room) -> tuple[int, int, float]:
        """The best thinking and solution that this room holds, and how likely such a call is right.

        Where it is known how long solutions are, a smaller one may make room for more thinking: the last
        tokens of a solution's limit are hardly ever used, and come back too late for the call itself.
        """
        request, curve, asked = snapshot.request, snapshot.request.curve, snapshot.in_time
        bias, least = request.usage_stats.bias, request.least_solution()
        sized = bool(curve.answers) and request.on_exhausted == "shrink"
        best = 0, asked, 0.0
        for part in range(SHARES, 0 if sized else SHARES - 1, -1):
            solution = max(least, asked * part // SHARES)
            thinking = curve.best(max(0, min(wanted, largest_thinking(request, solution, room))))
            chance = curve.p(thinking) * curve.fit_probability(thinking, solution / bias)
            if chance > best[2]:
                best = thinking, solution, chance
        return best

    def _maybe_wait(self, snapshot: Snapshot, chance: float, wanted: int, speed: Speed | None) -> None:
        """Wait when refunds that are due would make this call clearly better, and time allows."""
        request, task = snapshot.request, snapshot.request.task
        top = task.account.path[-1]
        if request.on_exhausted == "raise" or not top.live:
            return
        due = Amount(math.floor(task.back_tokens), math.floor(task.back_nano))
        if len(task.account.path) > len(task.lineage):  # with other tasks: maybe all of it
            due = due.max(top.held - top.reserved)
        thinking, solution, hope = self._share_out(
            snapshot, wanted, snapshot.room(snapshot.answers).with_freed(due)
        )
        if chance > (1 - WORTH_WAITING) * hope:
            return
        if snapshot.end < INFINITY:
            left = snapshot.end - snapshot.now
            if speed is None or left < 4 * speed.answer(thinking + snapshot.in_time, request.fresh, 2):
                return
        where = snapshot.may_come_back(request.worst(thinking, solution), snapshot.answers)
        if where is not None:
            raise Wait(
                f"{wanted} thinking tokens are planned and cannot be held now; running calls hold "
                f"{amounts(where.held)} and are expected to give a part of it back",
                where,
                snapshot.ask_again(),
            )
