"""Policies and an oracle to measure the default policy by.

`Proportional` (shares by how long a kind thinks), `GreedyUpfront` (the first call takes what it can use),
`Decay` (Plan-and-Budget's schedules, arXiv 2505.16122: early calls get more), `Myopic` (each call thinks
while a token gains enough, whatever follows), `MarginalGreedy` (after the idea of UAB, arXiv 2605.26849: the
next few tokens to whoever gains most by them) and `Guessed` (after the idea of ZEBRA, arXiv 2605.20485:
curves that the model guesses of itself, and water-filling). The last two are our own code for one sentence
of their papers, not the authors'. `FixedCap` and `Uniform` are among the scheduler's own policies.

`Informed` is the best that any policy can do that knows the distribution of outcomes of every kind but not
the outcomes to come: it decides call by call, sees what each call used, and maximises the chance that all are
right, or the share that is, exactly.

A log of a run with one of these policies is replayed by `replay(path, policies=BASELINES)`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from elastic_agent.scheduler.estimates.success_curve import Curve, Objective
from elastic_agent.scheduler.policies.protocol import AllocationPolicy, Choice, State

Schedule = Literal["constant", "linear", "polynomial", "exponential", "cosine"]


@dataclass(frozen=True, slots=True)
class Proportional:
    """Of the room, the share that this kind's natural thinking has of all that is to come.

    A kind whose lengths nobody measured counts as 1; where none was, the shares are even.
    """

    name: str = "proportional"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        mine = _natural(state.this.curve)
        every = mine + sum(need.calls * _natural(need.curve) for need in state.others)
        return _limited(
            state, state.room * mine / every, f"{mine / every:.0%} of the room, by natural lengths"
        )


def _natural(curve: Curve) -> float:
    return 1.0 if curve.lengths is None else max(1.0, curve.lengths.used(curve.lengths.longest))


@dataclass(frozen=True, slots=True)
class GreedyUpfront:
    """All of the room for whoever comes first, as far as its curve rises and `most` allows.

    Attributes:
        most: thinking tokens that a call gets at the most.
    """

    most: int = 1 << 30
    name: str = "greedy"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        useful = state.this.curve.best(min(state.most, self.most))
        return _limited(state, min(state.room, useful), f"the first takes what it can use, up to {useful}")


@dataclass(frozen=True, slots=True)
class Decay:
    """Plan-and-Budget: of m calls the j-th (from 0) has weight d(j), and gets its share of what is left.

    Attributes:
        schedule: constant 1; linear 1 - rate * j / m; polynomial (1 - j / m) ** rate; exponential
            exp(-rate * j / m); cosine between 1 and 1 - rate.
        rate: how steeply it falls; 0 is `Uniform`.
    """

    schedule: Schedule = "exponential"
    rate: float = 0.5
    name: str = "decay"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        calls = state.made + 1 + state.calls
        weights = [self.weight(j / calls) for j in range(state.made, calls)]
        share = weights[0] / math.fsum(weights)
        return _limited(
            state, state.room * share, f"{share:.0%} of the room: call {state.made + 1} of {calls}"
        )

    def weight(self, done: float) -> float:
        """The weight when this share of the calls, 0 to 1, has been made."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return max(1e-9, 1 - self.rate * done)
        if self.schedule == "polynomial":
            return float((1 - done) ** self.rate)
        if self.schedule == "exponential":
            return math.exp(-self.rate * done)
        return 1 - self.rate * (1 - math.cos(math.pi * done)) / 2


@dataclass(frozen=True, slots=True)
class Myopic:
    """Thinks while a further token gains at least `price` of success here, whatever is still to come.

    Attributes:
        price: success per expected token; 0 takes all that helps.
    """

    price: float = 0.002
    name: str = "myopic"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        hull = state.this.curve.envelopes["each"]
        at = hull[0]
        for vertex in hull[1:]:
            if at.slope(vertex) < self.price:
                break
            at = vertex
        return _limited(
            state, min(at.thinking, state.room), f"a further token gains less than {self.price:g}"
        )


_NOTHING = 1e-6
"""Success that a portion must gain more than."""


@dataclass(frozen=True, slots=True)
class MarginalGreedy:
    """The room in portions, each to the call that gains most by it on the measured curves, as they are.

    Attributes:
        portion: thinking tokens that are given away at once.
    """

    portion: int = 8
    name: str = "marginal-greedy"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        curves = [state.this.curve, *(need.curve for need in state.others)]
        counts = [1, *(need.calls for need in state.others)]
        given, room = [0] * len(curves), state.room
        while True:
            gains = [
                curve.p(at + self.portion) - curve.p(at) for curve, at in zip(curves, given, strict=True)
            ]
            best = max(range(len(curves)), key=gains.__getitem__)
            if gains[best] <= _NOTHING or self.portion * counts[best] > room:
                break
            given[best] += self.portion
            room -= self.portion * counts[best]
        return _limited(state, given[0], f"portions of {self.portion} to whoever gains most")


@dataclass(frozen=True, slots=True)
class Guessed:
    """Water-filling on curves that nobody measured: success 1 - exp(-t / guess), by the model's own guesses.

    Attributes:
        guesses: kind -> thinking tokens that the model says it needs.
        otherwise: of a kind that it said nothing about.
    """

    guesses: tuple[tuple[str, float], ...]
    otherwise: float = 64.0
    name: str = "guessed"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        known = dict(self.guesses)
        mine = known.get(state.this.curve.kind, self.otherwise)
        every = [(mine, 1)]
        every += [(known.get(need.curve.kind, self.otherwise), need.calls) for need in state.others]
        low, high = 1e-9, 1 / min(guess for guess, _ in every)
        for _ in range(50):
            price = math.sqrt(low * high)
            wanted = math.fsum(calls * _filled(guess, price) for guess, calls in every)
            low, high = (price, high) if wanted > state.room else (low, price)
        return _limited(state, _filled(mine, high), f"water-filling on a guess of {mine:g} tokens")


def _filled(guess: float, price: float) -> float:
    """Tokens up to which 1 - exp(-t / guess) gains at least `price` a token."""
    return max(0.0, -guess * math.log(min(1.0, price * guess)))


def _limited(state: State, thinking: float, why: str) -> Choice:
    return Choice(min(max(0, int(thinking)), state.most), why)


BASELINES: Mapping[str, Callable[..., AllocationPolicy]] = {
    policy.__name__: policy
    for policy in (Proportional, GreedyUpfront, Decay, Myopic, MarginalGreedy, Guessed)
}
"""By the name of their class, as `replay(policies=)` takes them."""


class Informed:
    """The best possible policy for calls one after another whose distribution of outcomes is known, by kind.

    Args:
        outcomes: by kind, then a row a thinking limit: (limit, [(tokens of thinking and close, tokens of the
            solution, whether it is right)]), equally likely. A solution ends by itself within what is left.
        close: tokens of the marker that ends thinking.
        objective: "chain": the chance that all calls are right; "each": the share of calls that is.
    """

    def __init__(
        self,
        outcomes: Mapping[str, Sequence[tuple[int, Sequence[tuple[int, int, bool]]]]],
        close: int,
        objective: Objective = "chain",
    ) -> None:
        self._outcomes = {
            kind: [(limit, Counter(rows)) for limit, rows in limits] for kind, limits in outcomes.items()
        }
        self._close = close
        self._chain = objective == "chain"
        self._known: dict[tuple[str, ...], Any] = {}
        self._most = 0

    def worth(self, kinds: Sequence[str], cap: int) -> float:
        """What the best policy reaches on average within the cap, of calls of these kinds in this order.

        A call may be granted what is left: thinking up to a limit, the close, and a solution in the rest. A
        call that is wrong uses what it used when it was measured; one that the rest can't hold is wrong.
        """
        if cap > self._most:
            self._known, self._most = {}, cap
        worth = float(self._values(tuple(kinds))[cap])
        return worth if self._chain else worth / max(1, len(kinds))

    def _values(self, kinds: tuple[str, ...]) -> Any:
        """By tokens left, 0 to the most asked for: the chance that all are right, or how many are."""
        import numpy as np

        if not kinds:
            return np.full(self._most + 1, float(self._chain))
        if kinds not in self._known:
            after = self._values(kinds[1:])
            best = np.zeros(self._most + 1) if self._chain else after.copy()  # each: a call may be left out
            for limit, rows in self._outcomes[kinds[0]]:
                value = np.zeros(self._most + 1)
                for (used, solution, right), times in rows.items():
                    least = limit + self._close + solution  # what has to be held; the call uses less of it
                    cost = used + solution
                    if not self._chain:  # what can't be held whole is wrong, at no cost: a bound
                        value[:least] += times * after[: min(least, self._most + 1)]
                    if least <= self._most and (right or not self._chain):
                        then = after[least - cost : self._most + 1 - cost]
                        value[least:] += times * (then if self._chain else then + right)
                best = np.maximum(best, value / rows.total())
            self._known[kinds] = best
        return self._known[kinds]
