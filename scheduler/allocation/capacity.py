"""What fits now, and how much thinking the policy would give. Two views are kept apart:

- *held*: what can be taken this instant. The worst case of exactly what will be sent must fit above the final
  answer's reserve.
- *expected*: what will come to be used. Running calls give back what they don't use, calls to come use their
  average. The policy shares out the expected view, in thinking tokens, for the tightest of tokens, money and
  time, on every level of nested tasks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any, NamedTuple

from elastic_agent.usage import worst_input

from ..latency.model import Speed
from ..ledger.amounts import INFINITY, NOTHING, Room
from ..policies.protocol import Choice, Need, State
from .demand import RemainingDemand, remaining_demand
from .headroom import Headroom
from .request import Request

UNBOUNDED = 1e12
"""Thinking tokens of a level without a cap: more than any calls can use."""


class Plan(NamedTuple):
    """What the policy would give, on the level where it gives least.

    Attributes:
        choice: what the policy chose.
        level: the task whose caps bind.
        unit: the cap that binds there; "pool" where no cap does.
        room: thinking tokens for this call and the others, by that cap.
        others: calls still to come on that level.
    """

    choice: Choice
    level: str
    unit: str
    room: float
    others: int

    def numbers(self) -> dict[str, Any]:
        """For the log."""
        return {
            "level": self.level,
            "binds": self.unit,
            "room": round(self.room, 1),
            "others": self.others,
            **self.choice.numbers,
        }


def largest_solution(request: Request, room: Room) -> int:
    """The largest solution, at most what was asked for, that fits without thinking; 0 or less: none."""
    size, price = request.size, request.model.price
    most = size.solution
    if room.tokens is not None:
        most = min(most, room.tokens - size.close)
    if most > 0 and room.nano is not None and price is not None:
        read = size.read + worst_input(size.prompt, 0, size.close)
        most = max(0, min(most, price.more(room.nano, read, 0, read_again=False)))
    return most


def largest_thinking(request: Request, solution: int, room: Room) -> int:
    """The most thinking that can be held beside this solution; -1 when not even none can."""
    size, price = request.size, request.model.price
    most, prompt, close = size.thinking, size.prompt, size.close
    if room.tokens is not None:
        most = min(most, room.tokens - close - solution)
    if most < 0:
        return -1
    if room.nano is not None and price is not None:
        read = size.read + worst_input(prompt, 1, close) - 1  # the thinking not counted
        more = price.more(room.nano, read, solution, read_again=True)
        if more < 0 and price.bound(size.read + worst_input(prompt, 0, close), solution) > room.nano:
            return -1
        most = max(0, min(most, more))
    if size.probes is not None and size.probes.most(most):
        most = bisect_right(range(most), False, key=lambda less: not _fits(request, less + 1, solution, room))
    return most


def _fits(request: Request, thinking: int, solution: int, room: Room) -> bool:
    """Whether a call with this budget can be held, with all its probes."""
    need = request.worst(thinking, solution)
    tokens = room.tokens is None or need.tokens <= room.tokens
    return tokens and (room.nano is None or request.model.price is None or need.nano <= room.nano)


def plan(headroom: Headroom, most: int) -> Plan | None:
    """Ask the policy on every level that has a cap, or a price; the level that gives least counts."""
    found: Plan | None = None
    request, tasks = headroom.request, headroom.snapshot.tasks
    policy, this = request.task.policy, Need(request.curve, 1, request.terms.weight)
    for at, task in enumerate(tasks):
        remaining = headroom.remaining
        if at:
            remaining = remaining_demand(request, task.calls.to_come(request.terms.kind))
        room, unit = _room(headroom, at, remaining)
        if unit is None:
            if not task.thinking_price:
                continue
            room, unit = UNBOUNDED, "pool"
        made = task.calls.running + task.calls.finished
        choice = policy.choose(
            State(this, remaining.needs, room, most, made, task.thinking_price, task.chance)
        )
        if found is None or choice.thinking < found.choice.thinking:
            found = Plan(choice, task.name, unit, room, remaining.calls)
    return found


def _room(headroom: Headroom, at: int, remaining: RemainingDemand) -> tuple[float, str | None]:
    """Thinking tokens for this call and the others, by the tightest cap of one level; and that cap.

    Planning leaves untouched what all of these calls are expected to use without thinking. A sum of averages
    is too small half of the time; the policy says how much to keep for that, since the margin depends on what
    a token would gain.

    Args:
        at: the level: place of the task in the lineage.
    """
    request, task, account = headroom.request, headroom.snapshot.tasks[at], headroom.moves.accounts[at]
    price = request.model.price
    spent, held, refund = account.spent, account.held, task.expected_refund
    tokens = spent.tokens + held.tokens - refund.tokens + remaining.tokens
    nano = spent.nano + held.nano - refund.nano + remaining.nano
    holds = headroom.snapshot.holds
    if holds is not NOTHING:  # a running call, which gives up what it holds
        tokens -= holds.tokens
        nano -= holds.nano - (0 if price is None else price.bound(request.size.read, 0))
    if (at == 0 and request.terms.final) or (task.calls.declared and remaining.needs):
        # The reserve is a worst case; the demand already contains what the final answer is expected to use.
        tokens -= account.reserve.tokens
        nano -= account.reserve.nano
    room, unit = INFINITY, None
    if account.tokens is not None:
        room, unit = account.tokens - tokens, "tokens"
    if account.nano is not None and price is not None:
        by_usd = (account.nano - nano) / max(price.per_thinking_token, 1e-9)
        if by_usd < room:
            room, unit = by_usd, "usd"
    if account.seconds is not None and headroom.speed is not None:
        by_time = _room_in_time(headroom, at, remaining, headroom.speed)
        if by_time < room:
            room, unit = by_time, "seconds"
    return room, unit


def _room_in_time(headroom: Headroom, at: int, remaining: RemainingDemand, speed: Speed) -> float:
    """The same by time: what answers leave of it in each lane. Calls in different lanes run side by side."""
    rest, request, calls = headroom.rest, headroom.request, headroom.snapshot.tasks[at].calls
    lanes = max(1, calls.running + calls.waiting)
    if at == 0:
        waves, end = rest.others, headroom.end_of(request.terms.final)
    else:
        waves, end = math.ceil((lanes + remaining.calls) / lanes) - 1, headroom.ends[at]
    minimum = speed.answer(rest.solution, request.size.fresh, 2)
    minimum += waves * speed.answer(rest.other_solution, 0, 2)
    minimum += rest.others_prompt * (speed.later + speed.again) * speed.prefill
    return (end - headroom.now - minimum) / max(speed.tpot, 1e-9) * lanes
