"""What the live page sums up over tasks: success by thinking tokens, and what was spent by hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_CURVES = 100
MOST_POINTS = 64
MOST_OWNERS = 100
HOUR = 3600.0
HOURS = 24
OTHERS = "others"


@dataclass(slots=True)
class Curve:
    """Of one owner's calls of a kind: chances that decisions were made by, and how answers were judged.

    Attributes:
        expected: the chance that a grant was decided by, by its thinking limit.
        judged: [right, all] of the answers that got feedback, by the thinking limit.
    """

    expected: dict[int, float] = field(default_factory=dict)
    judged: dict[int, list[int]] = field(default_factory=dict)
    version: int = 0


class Learnt:
    """The curves of all owners; beyond `MOST_CURVES` the one that changed longest ago is let go."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, str, str], Curve] = {}

    def expected(self, owner: str, model: str, kind: str, limit: int, chance: float, version: int) -> None:
        """A grant was decided by this chance of success."""
        curve = self._curve(owner, model, kind, version)
        curve.expected.pop(limit, None)  # the latest stand last
        curve.expected[limit] = round(chance, 4)
        _trim(curve.expected)

    def judged(self, owner: str, model: str, kind: str, limit: int, correct: bool, version: int) -> None:
        """A user said whether an answer was right."""
        curve = self._curve(owner, model, kind, version)
        seen = curve.judged.setdefault(limit, [0, 0])
        seen[0] += correct
        seen[1] += 1
        _trim(curve.judged)

    def to_list(self, owner: str | None, since: int) -> list[dict[str, Any]]:
        """Those of an owner (None: of all) that changed after a version."""
        return [
            {
                "owner": whose,
                "model": model,
                "kind": kind,
                "expected": sorted(curve.expected.items()),
                "judged": [[limit, *seen] for limit, seen in sorted(curve.judged.items())],
            }
            for (whose, model, kind), curve in self._curves.items()
            if curve.version > since and (owner is None or whose == owner)
        ]

    def _curve(self, owner: str, model: str, kind: str, version: int) -> Curve:
        key = owner, model, kind
        if key not in self._curves and len(self._curves) >= MOST_CURVES:
            del self._curves[min(self._curves, key=lambda one: self._curves[one].version)]
        curve = self._curves.setdefault(key, Curve())
        curve.version = version
        return curve


class Spending:
    """What owners spent by hour of the last day; owners beyond `MOST_OWNERS` count as others."""

    def __init__(self) -> None:
        self._hours: dict[str, dict[int, dict[str, float]]] = {}
        self._now = 0

    def add(self, owner: str, amount: dict[str, float], now: float) -> None:
        """Something was charged."""
        self._now = int(now // HOUR)
        if owner not in self._hours and len(self._hours) >= MOST_OWNERS:
            owner = OTHERS
        hour = self._hours.setdefault(owner, {}).setdefault(self._now, {"tokens": 0.0, "usd": 0.0})
        for unit in hour:
            hour[unit] += amount[unit]

    def age(self, now: float) -> None:
        """Forget hours that are more than a day old, and owners without any."""
        self._now = int(now // HOUR)
        for owner, hours in list(self._hours.items()):
            for hour in [hour for hour in hours if hour <= self._now - HOURS]:
                del hours[hour]
            if not hours:
                del self._hours[owner]

    def to_list(self, owner: str | None) -> list[dict[str, Any]]:
        """For each owner (or the one) the dollars and tokens of each hour, the present hour last."""
        first = self._now - HOURS + 1
        nothing = {"tokens": 0.0, "usd": 0.0}
        return [
            {
                "owner": whose,
                **{
                    unit: [hours.get(first + at, nothing)[unit] for at in range(HOURS)]
                    for unit in ("tokens", "usd")
                },
            }
            for whose, hours in self._hours.items()
            if owner is None or whose == owner
        ]


def _trim(points: dict[int, Any]) -> None:
    while len(points) > MOST_POINTS:
        del points[next(iter(points))]
