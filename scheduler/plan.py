"""From a request and the books to numbers: what fits now, and how much thinking the policy would give.

Everything here is arithmetic on the present state; `desk` decides with it. Two views are kept apart:

- *held*: what can be taken this instant. The worst case of exactly what will be sent must fit above the final
  answer's reserve.
- *expected*: what will come to be used. Running calls give back what they don't use, calls to come use their
  average. The policy shares out this one, in thinking tokens, for the tightest of tokens, money and time, on
  every level of nested tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elastic_agent.scheduler.accounts import INFINITY, NOTHING, Amount, Room
from elastic_agent.scheduler.forecast import FINAL
from elastic_agent.scheduler.latency import Speed
from elastic_agent.scheduler.ledger import Ledger
from elastic_agent.scheduler.policies import Choice, Need, State
from elastic_agent.scheduler.request import MIN_SOLUTION, Book, Request
from elastic_agent.scheduler.timing import After
from elastic_agent.usage import worst_case

UNSEEN = 0.25
"""Share of its solution budget that a call is taken to use while no call of its kind has been seen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy would give, on the level where it gives least.

    Attributes:
        choice: the policy's.
        level: the task whose caps bind.
        unit: the cap that binds there.
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
            "room": self.room,
            "others": self.others,
            **self.choice.numbers,
        }


def reserve_for(level: Book, request: Request) -> Amount:
    """What the final answer of this call's task, or of one around it, needs: it doesn't think.

    Until more is known it is as long as this call's solution, and its prompt is the largest seen and as much
    again.
    """
    if level.final_solution is None:
        cap = level.account.tokens
        quarter = INFINITY if cap is None else max(MIN_SOLUTION, cap // 4)
        level.final_solution = int(min(max(request.solution, MIN_SOLUTION), quarter))
    size = level.final_solution
    prompt = max(level.largest_prompt, request.prompt) + size
    return request.cost(worst_case(prompt, 0, request.close, size))


def largest_solution(request: Request, room: Room) -> int:
    """The largest solution, at most what was asked for, that fits without thinking; 0 or less: none."""
    most = request.solution
    if room.tokens is not None:
        most = min(most, room.tokens - request.close)
    return _search(most, lambda s: _affordable(request, 0, s, room)) if most > 0 else most


def largest_thinking(request: Request, solution: int, room: Room) -> int:
    """The most thinking that can be held beside this solution; -1 when not even none can."""
    most = request.thinking
    if room.tokens is not None:
        most = min(most, room.tokens - request.close - solution)
    if most < 0 or not _affordable(request, 0, solution, room):
        return -1
    return _search(most, lambda t: _affordable(request, t, solution, room))


def _affordable(request: Request, thinking: int, solution: int, room: Room) -> bool:
    if room.nano is None:
        return True
    return request.cost(request.worst(thinking, solution)).nano <= room.nano


def _search(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits (what fits is downward closed); 0 if none does."""
    if fits(most):
        return most
    low, high = 0, most - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def after(request: Request, solution: int) -> After:
    """What has to happen in time once this call has thought, on its own task's level."""
    forecast = request.book.forecast
    others = forecast.to_come(request.kind, request.final)
    others.pop(FINAL, None)
    lanes = max(1, forecast.running + sum(forecast.pending.values()))
    waves = math.ceil((forecast.running + 1 + sum(others.values())) / lanes) - 1
    size = 0.0
    if others:
        size = sum(_solution(request, kind) * n for kind, n in others.items()) / sum(others.values())
    final = request.book.final_size if request.book.reserving and not request.final else 0
    return After(solution, waves, math.ceil(size), final)


def plan(
    request: Request, ledger: Ledger, now: float, speed: Speed | None, most: int, rest: After
) -> Plan | None:
    """Ask the policy on every level that has a cap; the level that gives least counts."""
    found: Plan | None = None
    this = Need(request.curve, 1, request.weight)
    for level in request.book.levels():
        others = level.forecast.to_come(request.kind, request.final and level is request.book)
        room, unit = _room(request, level, others, ledger, now, speed, rest)
        if unit is None:
            continue
        needs = tuple(Need(request.curves.curve(kind), n) for kind, n in sorted(others.items()))
        made = level.forecast.running + level.forecast.finished
        choice = request.book.policy.choose(State(this, needs, room, most, made))
        if found is None or choice.thinking < found.choice.thinking:
            found = Plan(choice, level.name, unit, round(room, 1), sum(others.values()))
    return found


def _room(
    request: Request,
    level: Book,
    others: dict[str, int],
    ledger: Ledger,
    now: float,
    speed: Speed | None,
    rest: After,
) -> tuple[float, str | None]:
    """Thinking tokens for this call and the others, by the tightest cap of one level."""
    account, own = level.account, level is request.book
    back = level.back
    if (own and request.final) or (level.forecast.declared and others):
        back += (
            account.reserve
        )  # planned with what the final answer will come to; the reserve is the worst case
    floors = _floors(request, level, others)
    rooms: dict[str, float] = {}
    if account.tokens is not None:
        rooms["tokens"] = (
            account.tokens - account.spent.tokens - account.held.tokens + back.tokens - floors.tokens
        )
    if account.nano is not None and request.price is not None:
        nano = account.nano - account.spent.nano - account.held.nano + back.nano - floors.nano
        rooms["usd"] = nano / max(request.price.per_thinking_token, 1e-9)
    end = ledger.deadline(account, final=own and request.final)
    if account.seconds is not None and speed is not None:
        lanes = max(1, level.forecast.running + sum(level.forecast.pending.values()))
        waves = rest.others if own else math.ceil((lanes + sum(others.values())) / lanes) - 1
        floor = speed.answer(rest.solution, 2) + waves * speed.answer(rest.other_solution, 2)
        rooms["seconds"] = (end - now - floor) / max(speed.tpot, 1e-9) * lanes
    if not rooms:
        return INFINITY, None
    unit = min(rooms, key=lambda name: rooms[name])
    return rooms[unit], unit


def behind(request: Request) -> tuple[int, Amount]:
    """The calls of this task that wait behind this one: how many, and what they will use without thinking."""
    forecast = request.book.forecast
    kinds = forecast.pending.copy()
    kinds[request.kind] -= 1
    del kinds[FINAL]
    return sum(kinds.values()), _sum(request, kinds)


def _floors(request: Request, level: Book, others: dict[str, int]) -> Amount:
    """What this call and the others are expected to use if none of them thinks: planning leaves it untouched.

    Solutions of calls that don't think are long, where the curves know it; `expected` takes a running call's
    solution from the same curve at its own thinking. Long ones here beside average ones there would turn each
    grant into room that is not there.

    A sum of averages is too small half of the time. How much is kept for that is the policy's to say: it
    depends on what a token would gain.
    """
    kinds = dict(others)
    kinds[request.kind] = kinds.get(request.kind, 0) + 1
    return _sum(request, kinds)


def _sum(request: Request, kinds: Mapping[str, int]) -> Amount:
    """What so many calls of these kinds are expected to use without thinking."""
    total = NOTHING
    for kind, count in kinds.items():
        habit = request.habits.get(kind)
        prompt = round(habit.prompt) if habit and kind != request.kind else request.prompt
        each = request.cost(worst_case(prompt, 0, request.close, _solution(request, kind)))
        total += Amount(each.tokens * count, each.nano * count)
    return total


def _solution(request: Request, kind: str, thinking: int = 0) -> int:
    """Solution tokens that a call of a kind, with so much thinking, is expected to use.

    As measured, corrected by how far that was off lately; else as seen lately, else a share of the limit.
    """
    habit, curve = request.habits.get(kind), request.curves.curve(kind)
    size = curve.says(thinking)
    if size is not None:
        size *= request.habits.bias
    else:
        size = habit.solution if habit else request.solution * UNSEEN
    return max(1, math.ceil(min(size, request.solution)))


def expected(request: Request, thinking: int, solution: int) -> Amount:
    """What a call with this budget is expected to use."""
    used = math.ceil(request.curve.used(thinking))
    return request.cost(
        request.worst(min(used, thinking), min(_solution(request, request.kind, thinking), solution))
    )
