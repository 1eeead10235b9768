"""How much better a task's cap could have been split, had its calls been known: regret, from a run's log.

    for task in regrets(replay("run.jsonl")):
        task.chance, task.best_chance, task.lost

Hindsight knows which calls came, and what their solutions and closes used. It splits the rest of the cap into
thinking limits, by the same success curves that the scheduler had (`hindsight.best_split`); a limit costs
what a call with this limit uses on average. The grants are valued by the same curves. So regret is the price
of not knowing what is still to come, and of holding worst cases while calls run. Regret says nothing about
whether the curves are right, and hindsight doesn't know which answers would be. Regret is below zero where
calls used less than such calls do on average, and the scheduler spent the refunds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..estimates.success_curve import Curve, Objective
from ..ledger.prices import Price
from ..runlog.events import GRANTS, Event
from .hindsight import Option, best_split, lp_bound
from .replay import Replayed

CELLS = 20_000_000
"""The most steps of one split: with more, the cap is counted in larger pieces than tokens."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The call whose grant is furthest from hindsight's.

    Attributes:
        task: the call's own task, which may be a sub-task.
        granted, best: thinking tokens.
    """

    task: str
    call: int
    kind: str
    granted: int
    best: int


@dataclass(frozen=True, slots=True)
class Regret:
    """One task.

    Attributes:
        calls: how many were sent, of sub-tasks too; `refused`: how many were not, and are left out.
        unit: of the cap that is compared, the one that was used up most; None: see `why_not`.
        chance, best_chance, bound: the probability that all calls are right: as granted, by the best split,
            and by the relaxation that no split can beat.
        right, best_right: the expected number of right calls.
        judged, judged_correct: how many answers got feedback, and how many of these were correct.
        guessed: calls without a measured or learnt curve, which count by the prior.
        lost: None where no grant is worse than hindsight's.
        why_not: why there is nothing to compare.
    """

    task: str
    calls: int
    refused: int
    judged: int
    judged_correct: int
    guessed: int = 0
    unit: Literal["tokens", "usd"] | None = None
    cap: float = 0.0
    spent: float = 0.0
    chance: float = 0.0
    best_chance: float = 0.0
    bound: float = 0.0
    right: float = 0.0
    best_right: float = 0.0
    lost: Lost | None = None
    why_not: str = ""


@dataclass(slots=True)
class _Call:
    asked: Event
    curve: Curve
    granted: int = 0
    settled: Event | None = None
    refused: bool = False
    correct: bool | None = None

    @property
    def sent(self) -> bool:
        return self.settled is not None and self.settled["outcome"] != "refunded"

    @property
    def price(self) -> Price | None:
        price = self.asked["price"]
        return None if price is None else Price(**price)

    def charged(self, unit: str) -> float:
        """The charge, in tokens or nano-dollars."""
        charged = self.settled["charged"] if self.settled else {}
        return float(charged["tokens"] if unit == "tokens" else round(charged["usd"] * 1e9))

    def cost(self, unit: str) -> float:
        """The cost of a thinking token: 1, or nano-dollars."""
        price = None if unit == "tokens" else self.price
        return 1.0 if price is None else price.per_thinking_token

    def limits(self) -> list[int]:
        """Thinking limits to choose from: the points of the curve, and the grant."""
        corners = {t for t, _ in self.curve.points if t <= self.asked["thinking"]}
        return sorted({0, self.granted, *corners})

    def worth(self, limit: int, objective: Objective) -> float:
        p, weight = self.curve.p(limit), float(self.asked["weight"])
        if objective == "each":
            return weight * p
        return weight * math.log(p) if p > 0 else -math.inf


@dataclass(slots=True)
class _Task:
    opened: Event
    calls: list[_Call] = field(default_factory=list)
    children: list[_Task] = field(default_factory=list)

    def all_calls(self) -> Iterator[_Call]:
        """Its own calls, and those of its sub-tasks."""
        yield from self.calls
        for child in self.children:
            yield from child.all_calls()


def regrets(found: Replayed) -> list[Regret]:
    """The regret of every task of a run, in the order of opening."""
    return [_regret(task) for task in _tasks(found)]


def _tasks(found: Replayed) -> list[_Task]:
    """The tasks of a log, with their calls."""
    tasks: dict[int, _Task] = {}
    calls: dict[tuple[int, int], _Call] = {}
    for event in found.events:
        name = event["event"]
        if name == "task_opened":
            task = tasks[event["id"]] = _Task(event)
            if event["parent_id"] in tasks:
                tasks[event["parent_id"]].children.append(task)
        elif name == "asked":
            at = event["id"], event["call"]
            if at not in calls:
                curve = found.curves[event["model"]].curve(event["kind"])
                calls[at] = _Call(event, curve)
                tasks[event["id"]].calls.append(calls[at])
            calls[at].asked, calls[at].refused = event, False
        elif name in (*GRANTS, "settled", "refused", "feedback"):
            call = calls[event["id"], event["call"]]
            if name in GRANTS:
                call.granted = event["granted"]["thinking"]
            elif name == "settled":
                call.settled = event
            elif name == "refused":
                call.refused = True
            else:
                call.correct = event["correct"]
    return list(tasks.values())


def _regret(task: _Task) -> Regret:
    known = list(task.all_calls())
    calls = [call for call in known if call.sent]
    judged = [call.correct for call in calls if call.correct is not None]
    base: dict[str, Any] = {
        "task": task.opened["task"],
        "calls": len(calls),
        "refused": sum(call.refused for call in known),
        "judged": len(judged),
        "judged_correct": sum(judged),
        "guessed": sum(not call.curve.measured for call in calls),
    }
    caps: Mapping[str, float | None] = {
        "tokens": task.opened["caps"].get("tokens"),
        "usd": task.opened["nano"],
    }
    shares = {
        unit: sum(call.charged(unit) for call in calls) / cap
        for unit, cap in caps.items()
        if cap is not None and (unit == "tokens" or all(call.price for call in calls))
    }
    if not calls:
        return Regret(**base, why_not="no call was sent")
    if not shares:
        return Regret(**base, why_not="no cap on tokens or money: there is nothing to split")
    unit = max(shares, key=shares.__getitem__)
    cap, spent = caps[unit] or 0, sum(call.charged(unit) for call in calls)
    thought = [call.settled["used"].get("thinking", 0) if call.settled else 0 for call in calls]
    room = math.floor(cap - spent + sum(n * call.cost(unit) for n, call in zip(thought, calls, strict=True)))
    if room < 0:
        return Regret(**base, why_not="solutions, closes and stopped calls alone took more than the cap")
    chain, each = (_split(calls, unit, room, objective) for objective in ("chain", "each"))
    scale = 1.0 if unit == "tokens" else 1e9
    objective = task.opened["policy_fields"].get("objective", "chain")
    return Regret(
        **base,
        unit="tokens" if unit == "tokens" else "usd",
        cap=cap / scale,
        spent=spent / scale,
        chance=math.exp(chain.granted),
        best_chance=math.exp(chain.best),
        bound=math.exp(chain.bound),
        right=each.granted,
        best_right=each.best,
        lost=(each if objective == "each" else chain).lost,
    )


@dataclass(slots=True)
class _Splits:
    granted: float
    best: float
    bound: float
    lost: Lost | None


def _split(calls: Sequence[_Call], unit: str, room: int, objective: Objective) -> _Splits:
    """The worth of the grants and of the best split, by one objective."""
    limits, costs = [call.limits() for call in calls], [call.cost(unit) for call in calls]
    size = max(1, math.ceil(room * sum(map(len, limits)) / CELLS))

    def options(cell: int) -> list[list[Option]]:
        return [
            [Option(math.ceil(c.curve.used(t) * cost / cell), c.worth(t, objective)) for t in ts]
            for c, ts, cost in zip(calls, limits, costs, strict=True)
        ]

    found = best_split(options(size), room // size)
    best = [ts[i] for ts, i in zip(limits, found.taken, strict=True)]
    gains = [c.worth(t, objective) - c.worth(c.granted, objective) for c, t in zip(calls, best, strict=True)]
    worst = max(range(len(calls)), key=gains.__getitem__)
    lost, call = None, calls[worst]
    if gains[worst] > 1e-9:
        asked = call.asked
        lost = Lost(asked["task"], asked["call"], asked["kind"], call.granted, best[worst])
    granted = math.fsum(c.worth(c.granted, objective) for c in calls)
    return _Splits(granted, found.worth, lp_bound(options(1), room), lost)
