"""What the latest calls of each kind were like: how many tokens they used, how long their answers take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from elastic_agent.budget import Budget

from ..latency.model import Speed
from .workload import MIN_SOLUTION

MIN_CALLS = 3
"""Calls of a kind from which on its averages are used."""

MIN_SHARES, SHARES_MEMORY = 4, 32
"""Solutions from which on their share of the final answer's limit may be used; how many are remembered."""


@dataclass(slots=True)
class AverageUsage:
    """Tokens of the latest calls of a kind: averages of about the last `MEMORY`."""

    MEMORY: ClassVar[int] = 16

    prompt: float = 0.0
    solution: float = 0.0
    seen: int = 0

    def record(self, prompt: int, solution: int) -> None:
        """One more call."""
        self.seen = min(self.seen + 1, self.MEMORY)
        self.prompt += (prompt - self.prompt) / self.seen
        self.solution += (solution - self.solution) / self.seen


class UsageStats:
    """The average usage of every kind of call on one model, and how far the model's curves are off.

    Attributes:
        known: by kind, once `MIN_CALLS` calls of it were seen.
        bias: what solutions came to, as a multiple of what the curves said, over about the last 30 calls.
            Curves are measured once and used on other prompts. At first `DOUBT` tokens of agreement are
            assumed.
    """

    KEEP, DOUBT = 0.97, 150.0

    def __init__(self) -> None:
        self.known: dict[str, AverageUsage] = {}
        self._kinds: dict[str, AverageUsage] = {}
        self._expected = self._found = 0.0
        self.bias = 1.0

    def get(self, kind: str) -> AverageUsage | None:
        """The average usage of a kind; None until `MIN_CALLS` calls of it were seen."""
        return self.known.get(kind)

    def record(self, kind: str, prompt: int, solution: int, expected: float | None = None) -> None:
        """A call of this kind was answered; its curve had said `expected` solution tokens."""
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

    Nobody is refused for a guess: a kind that is not known counts as if its calls were the shortest.
    """

    def __init__(self, usage_stats: UsageStats) -> None:
        self._usage_stats = usage_stats
        self._shares: dict[str, float] = {}  # by kind: solutions as a share of their limits
        self._scales: dict[str, _AnswerScale] = {}  # by kind

    def record(self, kind: str, tokens: int, limit: int, final_limit: int | None) -> None:
        """A call of this kind is over.

        Args:
            tokens: solution tokens that it wrote.
            limit: on its solution.
            final_limit: on its task's final answer, if one was given.
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
            final_limit: on its task's final answer, 0 if none was given. Steps of tasks with long answers are
                often longer than others; where they are, the size follows from this limit.
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
        """How much of their limits the solutions of a kind usually take."""
        return self._shares.get(kind, 1.0)

    def rest(self, kind: str, budget: Budget, prompt: int, done: int, speed: Speed) -> float:
        """Seconds that a running call still takes if it stops thinking now.

        Args:
            done: solution tokens that it has written.
        """
        limit = budget.solution
        size = self.share(kind) * limit
        if budget.thinking and not done:
            return speed.answer(math.ceil(size), speed.again * prompt)
        left = size - done if done < size else (limit - done) / 2  # longer than usual: as long as any
        return left * speed.tpot


@dataclass(slots=True)
class _AnswerScale:
    """Solutions of a kind as a share of the limits of their tasks' final answers.

    Attributes:
        share: the mean share.
        off, mean_off: by how many tokens that share misses them, and by how many their mean does, on average.
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
        """A solution of so many tokens, where the mean of its kind was so many."""
        self.count = min(self.count + 1, SHARES_MEMORY)
        if self.count > 1:
            self.off += (abs(tokens - self.share * limit) - self.off) / self.count
            self.mean_off += (abs(tokens - mean) - self.mean_off) / self.count
        self.share += (tokens / limit - self.share) / self.count
