"""Success curves that nobody measured, learnt from the calls themselves.

    curves = LearntCurves("my-model")
    BudgetScheduler(backend, curves=curves)        # every finished call teaches it
    call.feedback(correct=True)                    # its user knows whether the answer was correct

A call shows how long the model thinks, unless we cut it: then only that it would have thought longer. Those
lengths are right-censored, and `kaplan_meier` is the estimate for such. With F(t) the share that has ended by
itself within t,

    p(t) = F(t) * success of those that ended by themselves + (1 - F(t)) * success of those cut near t

where the two kinds of success come from what users tell. While nobody has told anything about a kind, ending
by itself stands for success, and being cut for failure: lengths alone can teach no more, and this errs
towards letting calls finish. Everything starts from a cautious guess of a few imagined calls, and a kind
with hardly any calls uses what all kinds together have shown. The latest `MEMORY` calls of a kind count.
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
"""Imagined calls that every estimate starts from."""

ENOUGH = 20
"""Right solutions from which on their lengths count."""

KNOWN = 8
"""Calls of a kind from which on it has a curve of its own."""

SCALE = 64.0


def kaplan_meier(seen: Iterable[tuple[int, bool]], *, imagined: float = 0.0, scale: float = SCALE) -> Lengths:
    """How long thinking is when nobody cuts it (Kaplan and Meier 1958, the product-limit estimate).

    Args:
        seen: (tokens, whether it was cut there); one cut at x was longer than those that ended at x.
        imagined: calls in mind whose length is exponential with mean `scale`; they fill the gaps and the
        tail.
            With none, nothing is known beyond the longest one.
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
    """One finished call: its limit, what it used, whether it was cut, and, once told, whether it was
    right.
    """

    limit: int
    thinking: int
    cut: bool
    solution: int
    right: bool | None = None


@dataclass(slots=True)
class Evidence:
    """The calls of one kind, and the curve that they make."""

    calls: deque[Seen] = field(default_factory=lambda: deque(maxlen=MEMORY))
    news: int = 0
    curve: Curve | None = None

    def add(self, seen: Seen) -> None:
        """One more call."""
        self.calls.append(seen)
        self.news += 1

    def estimate(self, kind: str, scale: float) -> Curve:
        """The curve, made anew when a tenth of what it stands on is new."""
        if self.curve is None or self.news > len(self.calls) / 10:
            self.curve, self.news = _estimate(kind, list(self.calls), scale), 0
        return self.curve


class LearntCurves:
    """Curves by kind, learnt; wherever a `CurveSet` is taken. See the module.

    Args:
        model: its name.
        scale: thinking tokens after which a guess has gained most of what thinking can gain.
        solution: solution tokens of calls that don't say.
    """

    def __init__(self, model: str = "", *, scale: float = SCALE, solution: int | None = None) -> None:
        self.model, self.scale, self.solution = model, scale, solution
        self._kinds: dict[str, Evidence] = {}
        self._all = Evidence()

    @property
    def calls(self) -> int:
        """How many calls it stands on."""
        return len(self._all.calls)

    def curve(self, kind: str) -> Curve:
        """What is known of a kind; of all kinds, while it is new; the prior, while everything is."""
        found = self._kinds.get(kind)
        if found is not None and len(found.calls) >= KNOWN:
            return found.estimate(kind, self.scale)
        return (
            self._all.estimate("", self.scale) if len(self._all.calls) >= KNOWN else prior(kind, self.scale)
        )

    def record_call(self, kind: str, limit: int, thinking: int, cut: bool, solution: int) -> Seen:
        """A call has brought an answer. Returns what `record_feedback` wants back."""
        call = Seen(limit, thinking, cut, solution)
        self._kinds.setdefault(kind, Evidence()).add(call)
        self._all.add(call)
        return call

    def record_feedback(self, kind: str, call: Seen, right: bool) -> None:
        """Whether that answer was right."""
        call.right = right
        self._kinds[kind].news += 1
        self._all.news += 1


Curves = CurveSet | LearntCurves
"""Where success curves come from: measured, or learnt."""


def _estimate(kind: str, calls: Sequence[Seen], scale: float) -> Curve:
    lengths = kaplan_meier(((c.thinking, c.cut) for c in calls), imagined=IMAGINED, scale=scale)
    told = [(c, float(c.right)) for c in calls if c.right is not None]
    known = told or [(c, float(not c.cut)) for c in calls]
    finished = _share([right for c, right in known if not c.cut], 0.8)
    cuts = [(c.limit, right) for c, right in known if c.cut]
    guess = _share([right for _, right in cuts], 0.2)
    wrote = _share([c.solution for c in calls if not c.cut], _share([c.solution for c in calls], 0.0, 0.0))
    wrote_cut = [(c.limit, float(c.solution)) for c in calls if c.cut]
    usual = _share([words for _, words in wrote_cut], wrote)
    points, solutions, answers = [], [], []
    for x in (0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4, 3 / 2, 2, 5 / 2, 3, 4, 6, 8):
        t = round(x * scale)
        longer = lengths.longer(t)
        points.append((t, (1 - longer) * finished + longer * _near(cuts, t, guess)))
        solutions.append((t, (1 - longer) * wrote + longer * _near(wrote_cut, t, usual)))
        written = sorted(c.solution for c, right in known if right and _shows(c, t))
        if len(written) >= ENOUGH:
            p50, p90, p99 = (float(written[len(written) * q // 100]) for q in (50, 90, 99))
            answers.append((t, Lengths.of(p50, p90, p99)))
    return Curve(
        kind, tuple(points), lengths, wrote, solutions=tuple(solutions), right_solutions=tuple(answers)
    )


def _shows(call: Seen, t: int) -> bool:
    """Its solution is as long as one of a call with limit t may be."""
    return abs(call.limit - t) <= _width(t) if call.cut else call.thinking <= t


def _share(values: Sequence[float], guess: float, imagined: float = IMAGINED) -> float:
    """Their mean, from a guess worth so many of them."""
    count = len(values) + imagined
    return (math.fsum(values) + imagined * guess) / count if count else guess


def _near(seen: Sequence[tuple[int, float]], t: int, guess: float) -> float:
    """The mean of what was seen near t: less weight further off, none beyond a quarter of t (or 8 tokens)."""
    width = _width(t)
    weights = [(max(0.0, 1 - abs(at - t) / width), value) for at, value in seen]
    total = math.fsum(weight for weight, _ in weights)
    return (math.fsum(w * value for w, value in weights) + IMAGINED * guess) / (total + IMAGINED)


def _width(t: int) -> float:
    """Limits so far from t say something about t."""
    return max(8.0, t / 4)
