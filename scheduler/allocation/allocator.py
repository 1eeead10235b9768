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
from ..latency.slack import SAFETY, Timing, Window
from ..ledger.amounts import INFINITY, NOTHING, Amount, Room
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from .capacity import after, largest_thinking, plan
from .degrade import exhausted
from .demand import Floors, behind, reserve_for
from .grant import amounts
from .request import Request
from .snapshot import Case, Decided, Wait

WORTH_WAITING = 0.05
"""A call waits for refunds when thinking less would cost it more than this share of its success."""


SHARES = 12
"""Solutions are sized in so many steps."""


class Decider:
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

    def decide(self, request: Request, now: float, own: Amount = NOTHING) -> tuple[Case, Decided]:
        """See the module.

        Args:
            own: what it holds already.

        Returns:
            what was known, and what the call gets.

        Raises:
            Wait: not now.
            CapExceededError, DeadlineError: refused.
        """
        case, least = self._case(request, now, own), request.least_solution()
        if now >= case.end - SAFETY:
            raise case.late(case.end - now, case.seconds_for(least))
        fits = largest_thinking(request, case.in_time, case.room(case.kept)) if case.in_time else -1
        if case.in_time < least or fits < 0:
            return case, exhausted(case)
        if case.answers is not case.kept:
            fits = largest_thinking(request, case.in_time, case.room(case.answers))
        return case, self._allocate(case, max(0, fits))

    def _case(self, request: Request, now: float, own: Amount) -> Case:
        book, speed = request.book, request.latency.speed()
        book.largest_prompt = max(book.largest_prompt, request.prompt)
        lacking = above = NOTHING
        if book.reserving:
            target = reserve_for(book, request)  # for a final call, too: it says how long the answer may be
            reserve = book.account.reserve
            if not (request.final or target is reserve):
                if target.fits_in(reserve):
                    self._ledger.reserve(book.account, target)  # it is known by now to need less
                else:
                    lacking = target.excess_over(reserve)
        for level in book.levels:
            tail = 0.0
            if level.reserving:
                size = level.final_size
                tail = self._timing.final_answer_seconds(
                    speed, size, max(level.largest_prompt, request.prompt) + size
                )
            level.account.reserved_seconds = tail
        if book.parent is not None:
            above = self._keep_above(request)
        floors = Floors(request)
        outlook = floors.outlook(book.forecast.to_come(request.kind, request.final))
        rest = after(request, outlook, request.solution)
        left = self._ledger.room(book.account, final=True).with_freed(own)
        end, in_time = left.deadline, request.solution
        if end < INFINITY and speed is not None:
            tail = book.account.reserved_seconds if rest.final else SAFETY
            best = speed.best  # a slowdown may be over before the answer is: it must not be cut for it
            start = now + best.ttft + request.fresh * best.prefill
            in_time = int(min(in_time, max(0.0, (end - tail - start) / max(best.tpot, 1e-9))))
            if request.final:  # an admitted task gets its answer while there is any time at all
                in_time = max(in_time, request.least_solution())
            if in_time < request.solution:
                rest = rest._replace(solution=in_time)
        kept, answers = behind(request, floors)
        return Case(
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
        for level in request.book.levels[1:]:
            if level.reserving:
                wish = reserve_for(level, request).max(level.account.reserve)
                short = self._ledger.reserve(level.account, wish)
                if short is not None and FINAL in level.forecast.own:
                    above += wish - level.account.reserve
        return above

    def _allocate(self, case: Case, holdable: int) -> Decided:
        """A call whose floor fits: how much it thinks."""
        request, speed, solution = case.request, case.speed, case.in_time
        most, short_of_time = request.thinking, False
        if case.end < INFINITY and speed is not None:
            window = Window(case.now, case.end, request.book.account.span)
            until = self._timing.think_until(window, case.rest, speed)
            in_time = int(case.fits_in(until - case.now))
            if in_time < most:
                short_of_time, most = True, in_time
        chosen = plan(case, most, self._pacing)
        wanted = most if chosen is None else min(most, chosen.choice.thinking)
        thinking = wanted if wanted <= holdable else request.curve.best(holdable)
        if thinking < wanted:
            thinking, solution, chance = self._share_out(case, wanted, case.room(case.answers))
            self._maybe_wait(case, chance, wanted, speed)
            most_now = largest_thinking(request, solution, case.room(case.answers))
            why: object = f"{max(0, most_now)} of {wanted} planned tokens can be held now"
            if thinking < most_now:
                why = f"{why}, and no more than {thinking} of these gain anything"
            if solution < case.in_time:
                why = f"{why}; the solution is cut from {case.in_time} to {solution}"
        elif chosen is None:
            why = "no cap binds it"
        elif short_of_time and wanted == most:
            why = f"the deadline leaves time for {most} thinking tokens"
        else:
            why = chosen.choice.why
        numbers = {"wanted": wanted, "most": most, "holdable": holdable, "behind": case.answers.tokens}
        short = thinking < wanted
        return Decided(thinking, solution, request.final, case.rest, why, numbers, chosen, short)

    def _share_out(self, case: Case, wanted: int, room: Room) -> tuple[int, int, float]:
        """The best thinking and solution that this room holds, and how likely such a call is right.

        Where it is known how long solutions are, a smaller one may make room for more thinking: the last
        tokens of a solution's limit are hardly ever used, and come back too late for the call itself.
        """
        request, curve, asked = case.request, case.request.curve, case.in_time
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

    def _maybe_wait(self, case: Case, chance: float, wanted: int, speed: Speed | None) -> None:
        """Wait when refunds that are due would make this call clearly better, and time allows."""
        request, book = case.request, case.request.book
        top = book.account.path[-1]
        if request.on_exhausted == "raise" or not top.live:
            return
        due = Amount(math.floor(book.back_tokens), math.floor(book.back_nano))
        if len(book.account.path) > len(book.levels):  # with other tasks: maybe all of it
            due = due.max(top.held - top.reserved)
        thinking, solution, hope = self._share_out(case, wanted, case.room(case.answers).with_freed(due))
        if chance > (1 - WORTH_WAITING) * hope:
            return
        if case.end < INFINITY:
            left = case.end - case.now
            if speed is None or left < 4 * speed.answer(thinking + case.in_time, request.fresh, 2):
                return
        where = case.may_come_back(request.worst(thinking, solution), case.answers)
        if where is not None:
            raise Wait(
                f"{wanted} thinking tokens are planned and cannot be held now; running calls hold "
                f"{amounts(where.held)} and are expected to give a part of it back",
                where,
                case.ask_again(),
            )
