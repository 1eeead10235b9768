"""What the latest calls of each kind were like: how many tokens they used, how long their answers took."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from elastic_agent.budget import Budget

from ..latency.model import Speed
from .workload import MIN_SOLUTION

MIN_CALLS = 3
"""The number of calls from which on a kind's averages are used."""

MIN_SHARES, SHARES_MEMORY = 4, 32
"""Solutions from which on `_AnswerScale` may be used, and how many it remembers."""


@dataclass(slots=True)
class AverageUsage:
    """Average tokens of a kind's calls, over about the last `MEMORY` of them."""

    MEMORY: ClassVar[int] = 16

    prompt: float = 0.0
    solution: float = 0.0
    seen: int = 0

    def record(self, prompt: int, solution: int) -> None:
        """Add a call."""
        self.seen = min(self.seen + 1, self.MEMORY)
        self.prompt += (prompt - self.prompt) / self.seen
        self.solution += (solution - self.solution) / self.seen


class UsageStats:
    """The average usage of every kind of call on one model, and how far the model's curves are off.

    Attributes:
        known: the usage of each kind with at least `MIN_CALLS` calls.
        bias: the tokens of solutions over what the curves said, of about the last 30 calls: curves are
            measured once, and used on other prompts. At first `DOUBT` tokens of agreement are assumed.
    """

    KEEP, DOUBT = 0.97, 150.0

    def __init__(self) -> None:
        self.known: dict[str, AverageUsage] = {}
        self._kinds: dict[str, AverageUsage] = {}
        self._expected = self._found = 0.0
        self.bias = 1.0

    def get(self, kind: str) -> AverageUsage | None:
        """The average usage of a kind; None before `MIN_CALLS` calls."""
        return self.known.get(kind)

    def record(self, kind: str, prompt: int, solution: int, expected: float | None = None) -> None:
        """Add a call of this kind, whose curve had said `expected` solution tokens."""
        usage = self._kinds.setdefault(kind, AverageUsage())
        usage.record(prompt, solution)
        if usage.seen >= MIN_CALLS:
            self.known[kind] = usage
        if expected is not None:
            self._expected = self.KEEP * self._expected + expected
            self._found = self.KEEP * self._found + solution
            ratio = (self._found + self.DOUBT) / (self._expected + self.DOUBT)
            self.bias = min(max(ratio, 0.5), 2.5)


class ServiceTimeStats:
    """How long the answers of one endpoint are, by kind, and how long a running one still takes.

    An unknown kind counts as if its calls were the shortest, so that no task is refused for a guess.
    """

    def __init__(self, usage_stats: UsageStats) -> None:
        self._usage_stats = usage_stats
        self._shares: dict[str, float] = {}  # by kind: solutions as a share of their limits
        self._scales: dict[str, _AnswerScale] = {}  # by kind

    def record(self, kind: str, tokens: int, limit: int, final_limit: int | None) -> None:
        """Add a call of this kind that is over.

        Args:
            tokens: its solution tokens.
            limit: of its solution.
            final_limit: of its task's final answer; None: not given.
        """
        if not tokens:
            return
        if final_limit:
            scale = self._scales.setdefault(kind, _AnswerScale())
            scale.record(tokens, final_limit, self.size(kind))
        share = tokens / limit
        before = self._shares.get(kind, share)
        self._shares[kind] = before + (min(share, 1.0) - before) / 16

    def size(self, kind: str, final_limit: int = 0) -> int:
        """Solution tokens of a call of a kind.

        Args:
            final_limit: of its task's final answer; 0: not given. Where steps of tasks with long answers have
                been longer than other steps, the size follows from this limit.
        """
        usage, scale = self._usage_stats.get(kind), self._scales.get(kind)
        if final_limit and scale is not None and scale.better:
            return max(1, round(scale.share * final_limit))
        return MIN_SOLUTION if usage is None else max(1, round(usage.solution))

    def prompt(self, kind: str) -> int:
        """Prompt tokens of a call of a kind."""
        usage = self._usage_stats.get(kind)
        return 0 if usage is None else round(usage.prompt)

    def share(self, kind: str) -> float:
        """The average share of their limits that solutions of a kind take."""
        return self._shares.get(kind, 1.0)

    def rest(self, kind: str, budget: Budget, prompt: int, done: int, speed: Speed) -> float:
        """Seconds that a running call still takes if it stops thinking now.

        Args:
            done: its solution tokens so far.
        """
        limit = budget.solution
        size = self.share(kind) * limit
        if budget.thinking and not done:
            return speed.answer(math.ceil(size), speed.again * prompt)
        left = (
            size - done if done < size else (limit - done) / 2
        )  # longer than usual: any length is as likely
        return left * speed.tpot


@dataclass(slots=True)
class _AnswerScale:
    """Solutions of a kind as a share of the limits of their tasks' final answers.

    Attributes:
        share: the mean share.
        off, mean_off: the average error, in tokens, of a prediction by that share, and by the kind's mean.
    """

    share: float = 0.0
    off: float = 0.0
    mean_off: float = 0.0
    count: int = 0

    @property
    def better(self) -> bool:
        """Whether the share predicts better than the mean."""
        return self.count >= MIN_SHARES and self.off < self.mean_off

    def record(self, tokens: int, limit: int, mean: int) -> None:
        """Add a solution; `mean`: of its kind so far."""
        self.count = min(self.count + 1, SHARES_MEMORY)
        if self.count > 1:
            self.off += (abs(tokens - self.share * limit) - self.off) / self.count
            self.mean_off += (abs(tokens - mean) - self.mean_off) / self.count
        self.share += (tokens / limit - self.share) / self.count
