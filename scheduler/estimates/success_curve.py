"""Success curves: how likely a call is to succeed, by its thinking tokens, per kind of call.

    curves = load("e1-tiny")            # measured, or the generic prior for a model nobody measured
    curve = curves.curve("steps-3")
    curve.p(32), curve.used(32)         # success with at most 32; tokens that such a call uses on average

A curve is made of measured points (t, p, n) and is linear between them. Measured curves are neither concave
nor monotone (a cut in mid-step can be worse than no thinking), so nobody may assume it: `envelopes` holds
the vertices of the upper concave envelope over *expected use*, which is what an allocation pays, and
`best(limit)` the best point of the real curve up to a limit.

Success is smoothed with half a success and half a failure, since log p is what is added up and p=0 out of 500
is not impossible. A kind that was not measured gets the average of those that were; a model that was not
measured gets a generic saturating prior whose scale is a share of its context length.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

LEAST_NET = 0.25
"""However much solution it spares, thinking is planned to cost at least this share of its tokens."""

USUAL = 0.9
"""The share of answers for which the final answer's reserve is long enough."""

BEYOND = 2.0
"""Standard errors by which success has to fall with more thinking to be believed."""

LEAST_SHARE = 0.02
"""Of calls that still think: a measured distribution says little about fewer."""

SPREAD = 0.4
"""Standard deviation of a solution's tokens, as a share of their mean."""

PRIOR_SCALE = 256.0
"""Thinking tokens after which the generic prior has gained 63% of what thinking can gain."""


class CurveFileError(ValueError):
    """A curves file that can't be used; says where and why."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long something is when nobody cuts it, as a piecewise linear distribution of tokens.

    Attributes:
        knots: (tokens, share that is longer), falling from 1 to 0.
    """

    knots: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, p50: float, p90: float, p99: float) -> Lengths:
        """From three percentiles; the last hundredth ends at 1.25 times the third."""
        p90 = max(p90, p50)
        p99 = max(p99, p90, 1.0)
        return cls(((0.0, 1.0), (p50, 0.5), (p90, 0.1), (p99, 0.01), (1.25 * p99, 0.0)))

    def used(self, limit: float) -> float:
        """Expected tokens when cut at `limit`: E[min(length, limit)]."""
        total = 0.0
        for (x0, s0), (x1, s1) in zip(self.knots, self.knots[1:], strict=False):
            if limit <= x0:
                break
            right = min(limit, x1)
            at = s1 if x1 == x0 else s0 + (s1 - s0) * (right - x0) / (x1 - x0)
            total += (right - x0) * (s0 + at) / 2
        return total

    def variance(self, limit: float) -> float:
        """Of the tokens used when cut at `limit`: E[min²] is the integral of 2x times the share that is
        longer.
        """
        square = 0.0
        for (x0, s0), (x1, s1) in zip(self.knots, self.knots[1:], strict=False):
            if limit <= x0:
                break
            right = min(limit, x1)
            at = s1 if x1 == x0 else s0 + (s1 - s0) * (right - x0) / (x1 - x0)
            square += (right - x0) * (x0 * (2 * s0 + at) + right * (s0 + 2 * at)) / 3
        return max(0.0, square - self.used(limit) ** 2)

    def longer(self, tokens: float) -> float:
        """The share that is longer."""
        return _between(self.knots, tokens)

    def size(self, share: float) -> float:
        """Tokens that hold so large a share of them."""
        for (x0, s0), (x1, s1) in pairwise(self.knots):
            if s1 <= 1 - share:
                return x1 if s0 == s1 else x0 + (x1 - x0) * (s0 - (1 - share)) / (s0 - s1)
        return self.knots[-1][0]

    @property
    def longest(self) -> int:
        """Nothing is longer."""
        return math.ceil(self.knots[-1][0])


Objective = Literal["chain", "each"]
"""What an allocation maximises: the chance that all calls succeed (the sum of log p), or how many do."""


class Vertex(NamedTuple):
    """A corner of an envelope: thinking tokens, what they are expected to cost, and what they are worth."""

    thinking: int
    use: float
    worth: float

    def slope(self, other: Vertex) -> float:
        """Worth gained per expected token on the way to `other`."""
        return (other.worth - self.worth) / (other.use - self.use)


class Piece(NamedTuple):
    """A side of an envelope: worth gained per expected token, expected tokens, and where it ends."""

    slope: float
    use: float
    end: Vertex


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One kind's success by thinking tokens.

    It never changes, and is compared by identity: what follows from curves can be kept by them.

    Attributes:
        kind: the kind that it is for.
        points: (thinking tokens, success), by rising tokens, the first at 0.
        lengths: natural thinking lengths, if known; else a call is expected to use all that it gets.
        solution: average solution tokens, if known.
        solutions: the same by thinking limit, (thinking tokens, solution tokens), by rising tokens: a call
            whose thinking is cut does its work in the solution.
        answers: how long right solutions are, by thinking limit, by rising tokens, if known.
        measured: False for the prior.
        envelopes, pieces: vertices and sides of the upper concave envelope.
        unthought: average solution tokens of a call that doesn't think; None when nobody measured.
        variance: of the tokens that such a call uses, thinking and solution, at its best limit.
        usual: solution tokens that `USUAL` of the right answers need that were not thought about; infinity if
            nobody measured.
    """

    kind: str
    points: tuple[tuple[int, float], ...]
    lengths: Lengths | None = None
    solution: float | None = None
    measured: bool = True
    solutions: tuple[tuple[int, float], ...] = ()
    answers: tuple[tuple[int, Lengths], ...] = ()
    envelopes: Mapping[Objective, tuple[Vertex, ...]] = field(init=False, repr=False)
    pieces: Mapping[Objective, tuple[Piece, ...]] = field(init=False, repr=False)
    unthought: float | None = field(init=False, repr=False)
    _champions: tuple[tuple[int, float], ...] = field(init=False, repr=False)
    variance: float = field(init=False, repr=False)
    usual: float = field(init=False, repr=False)
    _net: tuple[tuple[int, float], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if self.solutions:
            net, most = [], 0.0
            for t, _ in self.points:
                spared = (self.says(0) or 0.0) - (self.says(t) or 0.0)
                most = max(most, self.used(t) - spared, LEAST_NET * self.used(t))
                net.append((t, most))
            object.__setattr__(self, "_net", tuple(net))
        hulls = {"chain": self._hull(math.log), "each": self._hull(float)}
        object.__setattr__(self, "envelopes", hulls)
        object.__setattr__(self, "unthought", self.says(0))
        object.__setattr__(self, "pieces", {name: _pieces(hull) for name, hull in hulls.items()})
        object.__setattr__(self, "_champions", tuple(accumulate(self.points, _better)))
        best = hulls["chain"][-1].thinking
        wrote = SPREAD * (self.says(best) or 0.0)
        thought = 0.0 if self.lengths is None else self.lengths.variance(best)
        object.__setattr__(self, "variance", thought + wrote**2)
        object.__setattr__(self, "usual", self.answer_lengths(0).size(USUAL) if self.answers else math.inf)

    def p(self, thinking: float) -> float:
        """Success with at most so many thinking tokens."""
        return _between(self.points, thinking)

    def says(self, thinking: float) -> float | None:
        """Solution tokens that a call with this thinking limit uses on average; None when nobody measured."""
        return _between(self.solutions, thinking) if self.solutions else self.solution

    def whole(self, thinking: float, solution: float) -> float:
        """The share of right solutions with this thinking limit that so many tokens hold; 1 if unknown."""
        if not self.answers:
            return 1.0
        at = bisect_right(self.answers, thinking, key=_first) - 1
        t0, below = self.answers[max(0, at)]
        fits = 1 - below.longer(solution)
        if at + 1 == len(self.answers) or thinking <= t0:
            return fits
        t1, above = self.answers[at + 1]
        return fits + (1 - above.longer(solution) - fits) * (thinking - t0) / (t1 - t0)

    def answer_lengths(self, thinking: int) -> Lengths:
        """How long right solutions are with the measured limit that is next below (or above)."""
        return self.answers[max(0, bisect_right(self.answers, thinking, key=_first) - 1)][1]

    def net(self, thinking: float) -> float:
        """What a thinking limit costs on average beyond none: the thinking, less the solution it spares."""
        return _between(self._net, thinking) if self._net else self.used(thinking)

    def used(self, thinking: float) -> float:
        """Thinking tokens that a call with this limit uses on average."""
        return float(thinking) if self.lengths is None else self.lengths.used(thinking)

    def gain(self, used: float, limit: float) -> float:
        """How much likelier a right answer gets for a call that still thinks after `used` tokens.

        p is of all calls; those that have ended by themselves before gain nothing from a higher limit.
        """
        still = max(self.used(used + 1) - self.used(used), LEAST_SHARE)
        return (self.p(limit) - self.p(used)) / still

    def best(self, limit: int) -> int:
        """The limit, at most this, under which success is likeliest; the smallest of equals."""
        below = bisect_left(self.points, (limit,))
        if below:
            thinking, p = self._champions[below - 1]
            if below == len(self.points) or p >= self.p(limit):
                return thinking
        return limit

    def onwards(self, thinking: int, use: float) -> int:
        """The largest limit that is as good as this one and costs at most so much more on average.

        Where nothing was measured nothing says that still more helps, or that it doesn't.
        """
        if not self.measured:
            return thinking + int(use)
        p, most = self.p(thinking), self.net(thinking) + use
        as_good = [t for t, here in self.points if t > thinking and here >= p and self.net(t) <= most]
        return as_good[-1] if as_good else thinking

    def _hull(self, worth: Callable[[float], float]) -> tuple[Vertex, ...]:
        """Vertices of the upper concave envelope of worth(p) over expected use, as far as it rises."""
        hull: list[Vertex] = []
        for t, p in self.points:
            new = Vertex(t, self.net(t), worth(p))
            if hull and new.worth <= hull[-1].worth:
                continue  # not better than a cheaper point
            while hull and new.use <= hull[-1].use:
                hull.pop()  # as cheap, and better
            while len(hull) >= 2 and hull[-2].slope(new) >= hull[-2].slope(hull[-1]):
                hull.pop()
            hull.append(new)
        return tuple(hull)


def _first(pair: tuple[int, Lengths]) -> int:
    return pair[0]


def _pieces(hull: Sequence[Vertex]) -> tuple[Piece, ...]:
    return tuple(Piece(a.slope(b), b.use - a.use, b) for a, b in pairwise(hull))


def _better(best: tuple[int, float], new: tuple[int, float]) -> tuple[int, float]:
    return new if new[1] > best[1] else best


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at x of a function that is linear between its points, and flat beyond them."""
    at = bisect_right(points, (x, math.inf)) - 1
    x0, y0 = points[max(0, at)]
    if at + 1 == len(points) or x <= x0:
        return y0
    x1, y1 = points[at + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@cache
def prior(kind: str = "", scale: float = PRIOR_SCALE) -> Curve:
    """The generic curve: .2 without thinking, rising to .8, with most of the gain within `scale` tokens."""
    shares = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    return Curve(
        kind,
        tuple((round(x * scale), 0.2 + 0.6 * (1 - math.exp(-x))) for x in shares),
        measured=False,
    )


@dataclass(frozen=True, slots=True)
class CurveSet:
    """The curves of one model.

    Attributes:
        model: its name.
        kinds: the measured curves.
        solution: the solution tokens (s) that they were measured with; None for a prior.
        scale: of the prior, where nothing was measured.
    """

    model: str
    kinds: Mapping[str, Curve] = field(default_factory=dict)
    solution: int | None = None
    scale: float = PRIOR_SCALE
    _average: Curve | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kinds:
            object.__setattr__(self, "_average", _average(list(self.kinds.values())))

    def curve(self, kind: str) -> Curve:
        """The curve of a kind; the average of the measured ones, or the prior, for a kind not measured."""
        return self.kinds.get(kind) or self._average or prior(kind, self.scale)


def _average(curves: Sequence[Curve]) -> Curve:
    at = sorted({t for curve in curves for t, _ in curve.points})
    points = tuple((t, math.fsum(curve.p(t) for curve in curves) / len(curves)) for t in at)
    lengths = [curve.lengths for curve in curves if curve.lengths is not None]
    middle: Lengths | None = None
    if lengths:
        middle = _mixture(lengths)
    solutions = [curve.solution for curve in curves if curve.solution is not None]
    by_limit: tuple[tuple[int, float], ...] = ()
    if all(curve.solutions for curve in curves):
        by_limit = tuple((t, math.fsum(curve.says(t) or 0.0 for curve in curves) / len(curves)) for t in at)
    answers: tuple[tuple[int, Lengths], ...] = ()
    if any(curve.answers for curve in curves):
        at = sorted({t for curve in curves for t, _ in curve.answers})
        answers = tuple((t, _mixture([one.answer_lengths(t) for one in curves if one.answers])) for t in at)
    return Curve("", points, middle, _mean(solutions), solutions=by_limit, answers=answers)


def _mixture(lengths: Sequence[Lengths]) -> Lengths:
    """Read off at its own percentiles by averaging theirs."""
    knots = zip(*(one.knots for one in lengths), strict=True)
    return Lengths(tuple((math.fsum(x for x, _ in k) / len(k), k[0][1]) for k in map(list, knots)))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def load(model: str, *, scale: float = PRIOR_SCALE) -> CurveSet:
    """The curves that ship with an embedded model; the prior for every other."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", model) and not model.startswith("."):
        packaged = files("elastic_agent").joinpath("models", model, "curves.json")
        if packaged.is_file():
            return parse(json.loads(packaged.read_text(encoding="utf-8")), where=f"{model}/curves.json")
    return CurveSet(model, scale=scale)


def load_file(path: str | Path) -> CurveSet:
    """Curves from a file, as `elastic-agent eval` writes them.

    Raises:
        CurveFileError: not JSON, or not of the schema.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CurveFileError(f"{path}: not JSON: {error}") from None
    return parse(data, where=str(path))


def parse(data: Any, *, where: str = "curves") -> CurveSet:
    """Curves from decoded JSON.

    The schema: `{"model": str, "s": int, "kinds": {kind: [[t, p, n], ...]}}`, t null for unconstrained
    thinking, and optionally `"natural_thinking": {kind: {"mean", "p50", "p90", "p99"}}` and
    `"solution_tokens"` with the same, `"solution_by_thinking": {kind: [[t, mean], ...]}` and
    `"right_solutions": {kind: [[t, p50, p90, p99], ...]}`.

    Raises:
        CurveFileError: it is something else.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kinds"), dict) or not data["kinds"]:
        raise CurveFileError(f"{where}: expected an object with 'model', 's' and a non-empty 'kinds'")
    model, solution = data.get("model"), data.get("s")
    if not isinstance(model, str) or not isinstance(solution, int) or solution < 1:
        raise CurveFileError(f"{where}: 'model' must be a string and 's' a whole number of tokens")
    curves = {}
    for kind, rows in data["kinds"].items():
        natural = _percentiles(data.get("natural_thinking"), kind, f"{where}: natural_thinking[{kind!r}]")
        answers = _percentiles(data.get("solution_tokens"), kind, f"{where}: solution_tokens[{kind!r}]")
        lengths = Lengths.of(natural["p50"], natural["p90"], natural["p99"]) if natural else None
        points = _points(rows, lengths, f"{where}: kinds[{kind!r}]")
        mean = answers["mean"] if answers else None
        table = data.get("solution_by_thinking")
        says = (
            _lengths_at(table.get(kind), points, f"{where}: solution_by_thinking[{kind!r}]") if table else ()
        )
        right = _answers(data.get("right_solutions"), kind, points, f"{where}: right_solutions[{kind!r}]")
        curves[kind] = Curve(kind, points, lengths, mean, solutions=says, answers=right)
    return CurveSet(model, curves, solution)


def _points(rows: Any, lengths: Lengths | None, where: str) -> tuple[tuple[int, float], ...]:
    found: dict[int, tuple[float, int]] = {}
    unlimited: tuple[float, int] | None = None
    if not isinstance(rows, list) or not rows:
        raise CurveFileError(f"{where}: expected a list of [t, p, n]")
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3):
            raise CurveFileError(f"{where}: expected [t, p, n], got {row!r}")
        t, p, n = row
        if not (t is None or (isinstance(t, int) and t >= 0)) or t in found:
            raise CurveFileError(f"{where}: t must be null or a whole number, each once; got {t!r}")
        if not isinstance(p, int | float) or not 0 <= p <= 1 or not isinstance(n, int) or n < 1:
            raise CurveFileError(f"{where}: p must lie in 0..1 and n be at least 1; got {row!r}")
        smooth = (p * n + 0.5) / (n + 1), n
        if t is None:
            unlimited = smooth
        else:
            found[t] = smooth
    if unlimited is not None:
        found[max([lengths.longest if lengths else 0, *(2 * t for t in found)])] = unlimited
    if 0 not in found:
        found[0] = min(found.values())  # nobody measured it: no better than the worst that was
    return _smoothed([(t, p, n) for t, (p, n) in sorted(found.items())])


def _smoothed(rows: Sequence[tuple[int, float, int]]) -> tuple[tuple[int, float], ...]:
    """More thinking is taken to be no worse, unless it was measured to be: a fall that is within its error is
    averaged away (pool adjacent violators), one beyond `BEYOND` standard errors stays.

    Args:
        rows: (thinking tokens, success, samples), by rising tokens.
    """
    blocks: list[tuple[list[int], float, int]] = []
    for t, p, n in rows:
        block = [t], p, n
        while blocks and blocks[-1][1] > block[1]:
            before, count = blocks[-1], blocks[-1][2] + block[2]
            mean = (before[1] * before[2] + block[1] * block[2]) / count
            error = math.sqrt(mean * (1 - mean) * (1 / before[2] + 1 / block[2]))
            if before[1] - block[1] > BEYOND * error:
                break
            blocks.pop()
            block = before[0] + block[0], mean, count
        blocks.append(block)
    return tuple((t, p) for ts, p, _ in blocks for t in ts)


def _lengths_at(rows: Any, points: Sequence[tuple[int, float]], where: str) -> tuple[tuple[int, float], ...]:
    """[t, mean solution tokens] rows; null stands where the success curve has its unconstrained point."""
    found: dict[int, float] = {}
    for row in rows or ():
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], int | float) and row[1] >= 0):
            raise CurveFileError(f"{where}: expected [t, tokens], got {row!r}")
        found[points[-1][0] if row[0] is None else int(row[0])] = float(row[1])
    return tuple(sorted(found.items()))


def _answers(
    table: Any, kind: str, points: Sequence[tuple[int, float]], where: str
) -> tuple[tuple[int, Lengths], ...]:
    """[t, p50, p90, p99] rows; null stands where the success curve has its unconstrained point."""
    found: dict[int, Lengths] = {}
    for row in (table or {}).get(kind, ()):
        numbers = row[1:] if isinstance(row, list) else ()
        if len(numbers) != 3 or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
            raise CurveFileError(f"{where}: expected [t, p50, p90, p99], got {row!r}")
        found[points[-1][0] if row[0] is None else int(row[0])] = Lengths.of(*numbers)
    return tuple(sorted(found.items(), key=_first))


def _percentiles(table: Any, kind: str, where: str) -> dict[str, float] | None:
    if table is None or kind not in table:
        return None
    row = table[kind]
    if not isinstance(row, dict) or not all(
        isinstance(row.get(key), int | float) and row[key] >= 0 for key in ("mean", "p50", "p90", "p99")
    ):
        raise CurveFileError(f"{where}: expected mean, p50, p90 and p99, got {row!r}")
    return {key: float(row[key]) for key in ("mean", "p50", "p90", "p99")}
