"""A call's tokens so far: ids, sampled flags and log-probs, aligned, and where the segments end."""

from __future__ import annotations

from collections.abc import Sequence


class Output:
    """The tokens of one call: thinking, then the close, then the solution.

    Attributes:
        ids: every token, in order.
        sampled: False for tokens that were forced.
        logprobs: None for tokens that were forced, or whose log-prob was not asked for.
        thinking: how many of the first ids are thinking.
        close: how many ids after the thinking are the close.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float | None] = []
        self.thinking = self.close = 0

    @property
    def solution(self) -> int:
        """How many ids after the close are the solution."""
        return len(self.ids) - self.thinking - self.close

    @property
    def thinking_ids(self) -> tuple[int, ...]:
        return tuple(self.ids[: self.thinking])

    @property
    def close_ids(self) -> tuple[int, ...]:
        return tuple(self.ids[self.thinking : self.thinking + self.close])

    @property
    def solution_ids(self) -> tuple[int, ...]:
        return tuple(self.ids[self.thinking + self.close :])

    def add_sampled(self, token: int, logprob: float | None) -> None:
        """Append a token that the model sampled."""
        self.ids.append(token)
        self.sampled.append(True)
        self.logprobs.append(logprob)

    def add_forced(self, ids: Sequence[int]) -> None:
        """Append tokens that were not sampled."""
        self.ids += ids
        self.sampled += [False] * len(ids)
        self.logprobs += [None] * len(ids)

    def truncate(self, length: int) -> int:
        """Drop every token after the first `length`; returns how many were dropped."""
        dropped = max(0, len(self.ids) - length)
        for aligned in (self.ids, self.sampled, self.logprobs):
            del aligned[length:]
        return dropped
