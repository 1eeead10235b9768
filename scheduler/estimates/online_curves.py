"""Success curves learnt from the calls themselves, where none were measured.

    curves = LearntCurves("my-model")
    BudgetScheduler(backend, curves=curves)        # learns from every finished call
    call.feedback(correct=True)                    # whether the answer was correct, from its user

A call that ends its thinking by itself shows how long the model thinks. A call whose thinking is cut shows
only that the model would have thought longer: its length is right-censored, and `kaplan_meier` estimates
lengths from such samples. With F(t) the share of calls that end by themselves within t,

    p(t) = F(t) * success of calls that ended by themselves + (1 - F(t)) * success of calls cut near t

where both kinds of success come from feedback. While a kind has no feedback, ending by itself stands for
success, and being cut for failure. Lengths alone teach no more, and the error is on the side of letting calls
finish. Every estimate starts from a cautious guess worth `IMAGINED` calls. A kind with fewer than `KNOWN`
calls uses the curve of all kinds together. The latest `MEMORY` calls of a kind count.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .lengths import Lengths
from .success_curve import Curve, CurveSet, prior

MEMORY = 400
IMAGINED = 2.0
"""The weight of an estimate's first guess, in calls."""

ENOUGH = 20
"""Right solutions from which on a limit has a distribution of their lengths."""

KNOWN = 8
"""Calls of a kind from which on it has a curve of its own."""

SCALE = 64.0


def kaplan_meier(seen: Iterable[tuple[int, bool]], *, imagined: float = 0.0, scale: float = SCALE) -> Lengths:
    """How long uncut thinking is (the product-limit estimate of Kaplan and Meier 1958).

    Args:
        seen: (tokens, whether the thinking was cut there); thinking cut at x is longer than any that ended at
            x.
        imagined: further calls whose length is exponential with mean `scale`. They fill the gaps and the
            tail; without them nothing is known beyond the longest sample.
    """
    ends: dict[int, list[int]] = {}
    for tokens, cut in seen:
        ends.setdefault(tokens, [0, 0])[cut] += 1
    share, at_risk, last = 1.0, sum(map(sum, ends.values())), 0
    knots = [(0.0, 1.0)]
    for tokens in sorted(ends):
        ended, cut_here = ends[tokens]
        guess = imagined * -math.expm1(-(tokens - last) / scale)
        share *= 1 - (ended + guess) / (at_risk + imagined)
        at_risk, last = at_risk - ended - cut_here, tokens
        knots.append((float(tokens), share))
    if imagined:
        knots += [(last + x * scale, share * math.exp(-x)) for x in (0.25, 0.5, 1.0, 2.0, 4.0)]
        knots.append((last + 6 * scale, 0.0))
    return Lengths(tuple(knots))


@dataclass(slots=True)
class Seen:
    """One finished call; `right` is its feedback, None before there is any."""

    limit: int
    thinking: int
    cut: bool
    solution: int
    right: bool | None = None


@dataclass(slots=True)
class Evidence:
    """The calls of one kind, and the curve that follows from them."""

    calls: deque[Seen] = field(default_factory=lambda: deque(maxlen=MEMORY))
    news: int = 0
    curve: Curve | None = None

    def add(self, seen: Seen) -> None:
        """One more call."""
        self.calls.append(seen)
        self.news += 1

    def estimate(self, kind: str, scale: float) -> Curve:
        """The curve; it is worked out again when a tenth of the calls is new."""
        if self.curve is None or self.news > len(self.calls) / 10:
            self.curve, self.news = _estimate(kind, list(self.calls), scale), 0
        return self.curve


class LearntCurves:
    """Learnt curves by kind; can be used wherever a `CurveSet` can. See the module.

    Args:
        model: the model's name.
        scale: thinking tokens within which thinking gains most of what it can, as a first guess.
        solution: solution tokens of calls that set no limit.
    """

    def __init__(self, model: str = "", *, scale: float = SCALE, solution: int | None = None) -> None:
        self.model, self.scale, self.solution = model, scale, solution
        self._kinds: dict[str, Evidence] = {}
        self._all = Evidence()

    @property
    def calls(self) -> int:
        """How many calls the curves follow from."""
        return len(self._all.calls)

    def curve(self, kind: str) -> Curve:
        """The curve of a kind; of all kinds together while the kind is new; at first the prior."""
        for name, evidence in ((kind, self._kinds.get(kind)), ("", self._all)):
            if evidence is not None and len(evidence.calls) >= KNOWN:
                return evidence.estimate(name, self.scale)
        return prior(kind, self.scale)

    def record_call(self, kind: str, limit: int, thinking: int, cut: bool, solution: int) -> Seen:
        """A call has brought an answer. Returns the record that `record_feedback` takes."""
        call = Seen(limit, thinking, cut, solution)
        self._kinds.setdefault(kind, Evidence()).add(call)
        self._all.add(call)
        return call

    def record_feedback(self, kind: str, call: Seen, right: bool) -> None:
        """The answer of a recorded call was right, or wasn't."""
        call.right = right
        self._kinds[kind].news += 1
        self._all.news += 1


Curves = CurveSet | LearntCurves
"""Where success curves come from: measured, or learnt."""


def _estimate(kind: str, calls: Sequence[Seen], scale: float) -> Curve:
    lengths = kaplan_meier(((c.thinking, c.cut) for c in calls), imagined=IMAGINED, scale=scale)
    judged = [(c, float(c.right)) for c in calls if c.right is not None]
    success = judged or [(c, float(not c.cut)) for c in calls]
    finished = _share([right for c, right in success if not c.cut], 0.8)
    cut = [(c.limit, right) for c, right in success if c.cut]
    cut_anywhere = _share([right for _, right in cut], 0.2)
    wrote = _share([c.solution for c in calls if not c.cut], _share([c.solution for c in calls], 0.0, 0.0))
    wrote_cut = [(c.limit, float(c.solution)) for c in calls if c.cut]
    wrote_cut_anywhere = _share([solution for _, solution in wrote_cut], wrote)
    points, solutions, right_solutions = [], [], []
    for x in (0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4, 3 / 2, 2, 5 / 2, 3, 4, 6, 8):
        t = round(x * scale)
        longer = lengths.longer(t)
        points.append((t, (1 - longer) * finished + longer * _near(cut, t, cut_anywhere)))
        solutions.append((t, (1 - longer) * wrote + longer * _near(wrote_cut, t, wrote_cut_anywhere)))
        written = sorted(c.solution for c, right in success if right and _shows(c, t))
        if len(written) >= ENOUGH:
            p50, p90, p99 = (float(written[len(written) * q // 100]) for q in (50, 90, 99))
            right_solutions.append((t, Lengths.of(p50, p90, p99)))
    return Curve(
        kind,
        tuple(points),
        lengths,
        wrote,
        solutions=tuple(solutions),
        right_solutions=tuple(right_solutions),
    )


def _shows(call: Seen, t: int) -> bool:
    """Whether a call's solution is as long as one with limit t may be."""
    return abs(call.limit - t) <= _width(t) if call.cut else call.thinking <= t


def _share(values: Sequence[float], guess: float, imagined: float = IMAGINED) -> float:
    """The mean of the values and of a guess with the weight of `imagined` values."""
    count = len(values) + imagined
    return (math.fsum(values) + imagined * guess) / count if count else guess


def _near(seen: Sequence[tuple[int, float]], t: int, guess: float) -> float:
    """The mean of the values near t: less weight further off, none beyond `_width(t)`."""
    width = _width(t)
    weights = [(max(0.0, 1 - abs(at - t) / width), value) for at, value in seen]
    total = math.fsum(weight for weight, _ in weights)
    return (math.fsum(w * value for w, value in weights) + IMAGINED * guess) / (total + IMAGINED)


def _width(t: int) -> float:
    """How far from t a limit may be and still say something about t."""
    return max(8.0, t / 4)
