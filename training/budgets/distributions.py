"""Which budget each group of samples gets: distributions over (t*, s*), as plain values without IO.

Every distribution is a function from a share u in [0, 1) to a Budget (its quantile function). A batch of n
groups draws one u from each of n equal slices and shuffles them: budgets are dealt out like cards, so that
every batch holds the distribution as evenly as n groups can, and the histogram does not wander. All samples
of one group get the same budget, else the group would compare budgets instead of answers.

What a batch gets depends on (seed, batch) alone, and on nothing that was drawn before: a run that was killed
goes on with the budgets it would have had, and all processes of a run agree without talking.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from elastic_agent.budget import Budget
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.validation import integer

Wording = Literal["l1-exact", "l1-max"]
STATED: dict[Wording, str] = {"l1-exact": "Think for {t} tokens.", "l1-max": "Think for maximum {t} tokens."}
"""How L1 asks for a length (arXiv 2503.04697, sections 3.1 and 3.2): behind the problem."""


def by_thinking(budget: Budget) -> tuple[float, int]:
    """Sorts budgets by t, unlimited last, then by s."""
    return (math.inf if budget.thinking is None else budget.thinking), budget.solution


class Budgets(Protocol):
    """A distribution of budgets, possibly another one from batch to batch."""

    def at(self, share: float, batch: int) -> Budget:
        """The budget at `share` (0 to 1, 1 excluded) of the distribution of this batch (from 0)."""
        ...

    def largest(self) -> tuple[int | None, int]:
        """The largest limited t (None: there is none) and the largest s that can be drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Mixture:
    """Some budgets in equal parts; one named twice is twice as frequent. One alone is a fixed (t*, s*)."""

    parts: tuple[Budget, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidBudgetError("a mixture of budgets needs at least one")

    def at(self, share: float, batch: int) -> Budget:
        return self.parts[min(int(share * len(self.parts)), len(self.parts) - 1)]

    def largest(self) -> tuple[int | None, int]:
        limited = [b.thinking for b in self.parts if b.thinking is not None]
        return max(limited, default=None), max(b.solution for b in self.parts)


@dataclass(frozen=True, slots=True)
class Spread:
    """t* between `low` and `high`, both included: uniform, or uniform in log(1 + t).

    `unlimited` is the share of groups whose thinking is not limited.
    """

    low: int
    high: int
    solution: int
    log: bool = False
    unlimited: float = 0.0

    def __post_init__(self) -> None:
        Budget(self.low, self.solution)
        if self.high < self.low:
            raise InvalidBudgetError(f"thinking from {self.low} to {self.high}: the first must be the lower")
        if not 0 <= self.unlimited <= 1:
            raise InvalidBudgetError(f"the unlimited share must be between 0 and 1, not {self.unlimited}")

    def at(self, share: float, batch: int) -> Budget:
        if share >= 1 - self.unlimited:
            return Budget(None, self.solution)
        share /= 1 - self.unlimited
        if self.log:
            low, high = math.log1p(self.low), math.log1p(self.high + 1)
            t = math.floor(math.expm1(low + share * (high - low)) + 1e-9)
        else:
            t = self.low + math.floor(share * (self.high + 1 - self.low))
        return Budget(min(max(t, self.low), self.high), self.solution)

    def largest(self) -> tuple[int | None, int]:
        return (None if self.unlimited == 1 else self.high), self.solution


@dataclass(frozen=True, slots=True)
class Granted:
    """What a scheduler handed out, t and s together, as often as it did
    (`elastic_agent.training.budgets.run_logs`).

    `unlimited` is the share of groups that are not limited, with the s of a grant.
    """

    grants: tuple[Budget, ...]
    unlimited: float = 0.0

    def __post_init__(self) -> None:
        if not self.grants:
            raise InvalidBudgetError("there are no grants to draw budgets from")
        if not 0 <= self.unlimited <= 1:
            raise InvalidBudgetError(f"the unlimited share must be between 0 and 1, not {self.unlimited}")
        ordered = sorted(self.grants, key=by_thinking)
        object.__setattr__(self, "grants", tuple(ordered))

    def at(self, share: float, batch: int) -> Budget:
        unlimited = share >= 1 - self.unlimited
        share = (share - 1 + self.unlimited) / self.unlimited if unlimited else share / (1 - self.unlimited)
        found = self.grants[min(int(share * len(self.grants)), len(self.grants) - 1)]
        return Budget(None, found.solution) if unlimited else found

    def largest(self) -> tuple[int | None, int]:
        return Mixture(self.grants).largest()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stages one after another: (batches, budgets). The last one stays (the paper's iterative training)."""

    stages: tuple[tuple[int, Budgets], ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidBudgetError("a schedule of budgets needs at least one stage")

    def at(self, share: float, batch: int) -> Budget:
        start = 0
        for batches, budgets in self.stages[:-1]:
            if batch < start + batches:
                return budgets.at(share, batch - start)
            start += batches
        return self.stages[-1][1].at(share, batch - start)

    def largest(self) -> tuple[int | None, int]:
        every = [budgets.largest() for _, budgets in self.stages]
        return max((t for t, _ in every if t is not None), default=None), max(s for _, s in every)


def seeded(*numbers: int) -> int:
    """One seed out of several: 63 bits that differ wherever any of the numbers does."""
    return random.Random(":".join(str(number) for number in numbers)).getrandbits(63)


def call_seeds(*numbers: int, calls: Iterable[int]) -> list[int]:
    """A seed for each call, by its number in the whole batch of all processes; a pass adds 1 to the last's.

    So one process and several draw the same samples, rounding aside. 62 bits: engines take 63.
    """
    return [seeded(*numbers, call) >> 1 for call in calls]


def deal(budgets: Budgets, groups: int, *, seed: int, batch: int) -> list[Budget]:
    """One budget for each of the `groups` of a batch."""
    return [budgets.at(share, batch) for share in _shares(groups, seed, batch)]


def deal_shares(
    samples: int, group: int, *, seed: int, batch: int, process: int = 0, processes: int = 1
) -> list[float]:
    """One share u a sample, the same within each group of `group` samples.

    Args:
        samples: samples of this process; process number i holds the i-th part of the whole batch, and a
            group may lie across two of them.
    """
    total = samples * processes
    if total % group:
        raise ValueError(f"{total} samples are not whole groups of {group}")
    dealt = _shares(total // group, seed, batch)
    first = process * samples
    return [dealt[(first + i) // group] for i in range(samples)]


def deal_samples(
    budgets: Budgets,
    samples: int,
    group: int,
    *,
    seed: int,
    batch: int,
    process: int = 0,
    processes: int = 1,
) -> list[Budget]:
    """One budget a sample, the same within each group; arguments are those of `deal_shares`."""
    shares = deal_shares(samples, group, seed=seed, batch=batch, process=process, processes=processes)
    return [budgets.at(share, batch) for share in shares]


def _shares(groups: int, seed: int, batch: int) -> list[float]:
    """One share for each group: one out of each of as many equal slices, shuffled."""
    rng = random.Random(seeded(seed, batch))
    shares = [min((i + rng.random()) / groups, math.nextafter(1.0, 0.0)) for i in range(groups)]
    rng.shuffle(shares)
    return shares


def check_context(
    budgets: Budgets, context: int, *, close: int, prompt: int, longest: str = "prompt"
) -> None:
    """Every limited budget fits behind a prompt of `prompt` tokens: nothing is cut earlier than it says.

    Raises:
        InvalidBudgetError: it does not; with the numbers.
    """
    t, s = budgets.largest()
    needed = prompt + (t or 0) + close + s
    if needed > context:
        raise InvalidBudgetError(
            f"the largest budgets do not fit: {longest} {prompt} + thinking {t or 0} + close {close} + "
            f"solution {s} = {needed} tokens, and the context holds {context}: lower t or s, or raise "
            f"rollout.context up to what the model has"
        )


def parse_mixture(text: str) -> tuple[int | None, ...]:
    """Read thinking budgets: "24,48,96,none".

    Raises:
        InvalidValueError: an entry is neither a number of tokens nor none.
    """
    unlimited = ("none", "inf", "null")
    return tuple(
        None if part.strip().lower() in unlimited else integer("a thinking budget", part)
        for part in text.split(",")
    )


def mixture(thinking: Sequence[int | None], solution: int) -> Mixture:
    """The t* of a list, in equal parts, with one s*."""
    return Mixture(tuple(Budget(t, solution) for t in thinking))


def budget_name(t: int | None) -> str:
    """A thinking budget as people read it."""
    return "unconstrained" if t is None else f"t={t}"
