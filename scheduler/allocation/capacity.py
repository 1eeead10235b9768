"""From a request and the books to numbers: what fits now, and how much thinking the policy would give.

Everything here is arithmetic on the present state; `dispatcher` decides with it. Two views are kept apart:

- *held*: what can be taken this instant. The worst case of exactly what will be sent must fit above the final
  answer's reserve.
- *expected*: what will come to be used. Running calls give back what they don't use, calls to come use their
  average. The policy shares out this one, in thinking tokens, for the tightest of tokens, money and time, on
  every level of nested tasks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from elastic_agent.usage import worst_input

from ..latency.model import Speed
from ..latency.slack import RemainingWork
from ..ledger.amounts import INFINITY, NOTHING, Room
from ..policies.pacing import Pacing
from ..policies.protocol import Choice, Need, State
from .demand import Outlook
from .request import Request, TaskState
from .snapshot import Snapshot

UNBOUNDED = 1e12
"""Thinking tokens of a level without a cap: more than any calls can use."""


@dataclass(slots=True)
class Plan:
    """What the policy would give, on the level where it gives least.

    Attributes:
        choice: the policy's.
        level: the task whose caps bind.
        unit: the cap that binds there; "pool" where none does.
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
    most = request.solution
    if room.tokens is not None:
        most = min(most, room.tokens - request.close)
    if most > 0 and room.nano is not None and request.price is not None:
        read = request.read + worst_input(request.prompt, 0, request.close)
        most = max(0, min(most, request.price.more(room.nano, read, 0, read_again=False)))
    return most


def largest_thinking(request: Request, solution: int, room: Room) -> int:
    """The most thinking that can be held beside this solution; -1 when not even none can."""
    most, close = request.thinking, request.close
    if room.tokens is not None:
        most = min(most, room.tokens - close - solution)
    if most < 0:
        return -1
    if room.nano is not None and request.price is not None:
        price, prompt = request.price, request.prompt
        read = request.read + worst_input(prompt, 1, close) - 1  # the thinking not counted
        more = price.more(room.nano, read, solution, read_again=True)
        if more < 0 and price.bound(request.read + worst_input(prompt, 0, close), solution) > room.nano:
            return -1
        most = max(0, min(most, more))
    if request.probes is not None and request.probes.most(most):
        most = bisect_right(range(most), False, key=lambda less: not _fits(request, less + 1, solution, room))
    return most


def _fits(request: Request, thinking: int, solution: int, room: Room) -> bool:
    """Whether it can be held, with all its probes."""
    need = request.worst(thinking, solution)
    tokens = room.tokens is None or need.tokens <= room.tokens
    return tokens and (room.nano is None or request.price is None or need.nano <= room.nano)


def after(request: Request, outlook: Outlook, solution: int) -> RemainingWork:
    """What has to happen in time once this call has thought, on its own task's level.

    Args:
        outlook: the calls still to come there.
        solution: tokens of this call's solution.
    """
    task, forecast, calls = request.task, request.task.forecast, outlook.steps
    lanes = max(1, forecast.running + forecast.waiting)
    waves = math.ceil((forecast.running + 1 + calls) / lanes) - 1
    each = math.ceil(outlook.solutions / calls) if calls else 0
    theirs = math.ceil(waves * outlook.prompts / calls) if calls else 0
    if not task.reserving or request.final:
        return RemainingWork(solution, waves, each, 0, request.prompt, 0, theirs)
    final = task.final_size
    prompt = max(task.largest_prompt, request.prompt) + final
    return RemainingWork(solution, waves, each, final, request.prompt, 0, theirs, prompt)


def plan(snapshot: Snapshot, most: int, pacing: Pacing | None = None) -> Plan | None:
    """Ask the policy on every level that has a cap, or a price; the level that gives least counts."""
    found: Plan | None = None
    request = snapshot.request
    this = Need(request.curve, 1, request.weight)
    for level in request.task.lineage:
        outlook = snapshot.outlook
        if level is not request.task:
            outlook = snapshot.floors.outlook(level.forecast.to_come(request.kind))
        room, unit = _room(snapshot, level, outlook)
        price = (
            0.0 if pacing is None else pacing.price_for(request.price, request.task.lineage[-1], level.value)
        )
        if unit is None:
            if not price:
                continue
            room, unit = UNBOUNDED, "pool"
        made = level.forecast.running + level.forecast.finished
        choice = request.task.policy.choose(State(this, outlook.needs, room, most, made, price, level.chance))
        if found is None or choice.thinking < found.choice.thinking:
            found = Plan(choice, level.name, unit, room, outlook.calls)
    return found


def _room(snapshot: Snapshot, level: TaskState, outlook: Outlook) -> tuple[float, str | None]:
    """Thinking tokens for this call and the others, by the tightest cap of one level, and which that is.

    Planning leaves untouched what all of them are expected to use if none thinks. A sum of averages is too
    small half of the time. How much is kept for that is the policy's to say: it depends on what a token would
    gain.
    """
    request, account, speed = snapshot.request, level.account, snapshot.speed
    own = level is request.task
    tokens = account.spent.tokens + account.held.tokens - level.back_tokens + outlook.tokens
    nano = account.spent.nano + account.held.nano - level.back_nano + outlook.nano
    if snapshot.own is not NOTHING:  # it is decided on once more
        tokens -= snapshot.own.tokens
        nano -= snapshot.own.nano - (0 if request.price is None else request.price.bound(request.read, 0))
    if (own and request.final) or (level.forecast.declared and outlook.needs):
        tokens -= account.reserve.tokens  # a worst case: the final answer is planned with what it will come
        nano -= account.reserve.nano  # to
    room, unit = INFINITY, None
    if account.tokens is not None:
        room, unit = account.tokens - tokens, "tokens"
    if account.nano is not None and request.price is not None:
        by_usd = (account.nano - nano) / max(request.price.per_thinking_token, 1e-9)
        if by_usd < room:
            room, unit = by_usd, "usd"
    if account.seconds is not None and speed is not None:
        by_time = _room_in_time(snapshot, level, outlook, speed)
        if by_time < room:
            room, unit = by_time, "seconds"
    return room, unit


def _room_in_time(snapshot: Snapshot, level: TaskState, outlook: Outlook, speed: Speed) -> float:
    """The same by time: what answers leave of it, in each of the lanes in which calls run side by side."""
    rest, forecast = snapshot.rest, level.forecast
    lanes = max(1, forecast.running + forecast.waiting)
    if level is snapshot.request.task:
        waves, end = rest.others, snapshot.end_of(snapshot.request.final)
    else:
        waves = math.ceil((lanes + outlook.calls) / lanes) - 1
        end = snapshot.ledger.deadline(level.account)
    floor = speed.answer(rest.solution, snapshot.request.fresh, 2) + waves * speed.answer(
        rest.other_solution, 0, 2
    )
    floor += rest.others_prompt * (speed.later + speed.again) * speed.prefill
    return (end - snapshot.now - floor) / max(speed.tpot, 1e-9) * lanes
