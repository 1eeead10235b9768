"""Runs agent episodes: many together, turn by turn.

In each round, every episode that is not over gets a grant and makes its next call. An engine decodes the
calls of a round together; then the tools of the round run side by side. Because of the rounds a run is
repeatable: what is sampled follows from the seed, however long a tool takes.

An episode becomes one row for the trainer. Its completion is everything behind the first prompt: what the
model sampled (in the loss), forced closes, tool results and the template's tokens around them (not in the
loss, without log-probs). An episode ends for one of five reasons:

    answer    a finished solution calls no tool: it is the final answer, and is rewarded
    cut       a solution reached its limit: half a tool call can't be run
    turns     the last turn that was allowed called a tool
    tokens    the rest of the task's cap can't hold another call
    context   the rest of the model's context can't
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Protocol

from elastic_agent.budget import Budget
from elastic_agent.errors import CapExceededError, InvalidBudgetError
from elastic_agent.usage import Usage

from ..rollouts.rollout import Call, Rollout
from .environment import (
    Episode,
    MalformedCallError,
    ToolCall,
    parse_tool_calls,
)
from .tools import Result, run_tools
from .turn_renderer import TurnRenderer


class BudgetAllocator(Protocol):
    """Gives each turn of one episode its budget, as `elastic_agent.scheduler.runtime.offline_task` does."""

    def grant(self, prompt: int, asked: Budget, last: bool) -> Budget:
        """The next turn's budget, at most what was asked for.

        Args:
            prompt: tokens before the turn.
            asked: the turn's own limits; `thinking` is a number.
            last: no turn may follow.

        Raises:
            CapExceededError: the rest of the cap can't hold an answer.
        """
        ...

    def settle(self, usage: Usage) -> None:
        """Book what the turn that was granted last has used."""
        ...


class Ending(StrEnum):
    """Why an episode ended; see the module."""

    ANSWER = "answer"
    CUT = "cut"
    TURNS = "turns"
    TOKENS = "tokens"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """The limits of every episode of a run.

    Attributes:
        turns: most turns of the model.
        context: most tokens of an episode, first prompt included.
        tool_seconds: most seconds of one tool call.
        tool_characters: most characters of one tool result.
    """

    turns: int
    context: int
    tool_seconds: float = 10.0
    tool_characters: int = 4000


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: its grant, its rollout, and the results of its tool calls."""

    granted: Budget
    rollout: Rollout
    results: tuple[Result, ...] = ()


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An episode that has ended.

    Attributes:
        rollout: the episode as one sample. Its thinking and usage are the sums over all turns; its solution
            is the final answer (empty without one); it is cut if the thinking of any turn was.
        turns: the turns in order; at least one.
        ending: why the episode ended.
        score: the score of the final answer; None where the episode has no `score`, or no final answer.
    """

    rollout: Rollout
    turns: tuple[Turn, ...]
    ending: Ending
    score: float | None


@dataclass(slots=True)
class EpisodeRunner:
    """An episode while it runs.

    Args:
        episode: its tools.
        ids: the first prompt, generation prompt included; everything that follows is appended.
        renderer: writes the ids between two turns.
        limits: of the run.
        allocator: gives the turns their budgets; None grants what is asked for.
    """

    episode: Episode
    ids: list[int]
    renderer: TurnRenderer
    limits: EpisodeLimits
    allocator: BudgetAllocator | None = None
    turns: list[Turn] = field(default_factory=list, init=False)
    ending: Ending | None = field(default=None, init=False)
    _mask: list[int] = field(default_factory=list, init=False)
    _logprobs: list[float | None] = field(default_factory=list, init=False)

    def next_grant(self, asked: Budget) -> Budget | None:
        """The next turn's budget; None where no turn fits any more, and the episode has ended.

        Raises:
            CapExceededError, InvalidBudgetError: not even the first turn fits.
        """
        try:
            bounded = asked.bounded(self.limits.context - len(self.ids), self.renderer.close)
            if self.allocator is None:
                return bounded
            return self.allocator.grant(len(self.ids), bounded, len(self.turns) + 1 == self.limits.turns)
        except (InvalidBudgetError, CapExceededError) as error:
            if not self.turns:
                raise
            self.ending = Ending.TOKENS if isinstance(error, CapExceededError) else Ending.CONTEXT
            return None

    def add_turn(self, granted: Budget, rollout: Rollout) -> None:
        """Append a turn that was sampled, and book its usage."""
        if self.allocator is not None:
            self.allocator.settle(rollout.usage)
        self.turns.append(Turn(granted, rollout))
        self._append(rollout.completion_ids, rollout.env_mask, rollout.logprobs)
        if not rollout.finished:
            self.ending = Ending.CUT

    def tool_calls(self) -> list[ToolCall | Result]:
        """The tool calls of the last turn. A malformed call has its result already: what is wrong with it."""
        codec = self.renderer.codec
        solution = codec.decode(self.turns[-1].rollout.solution_text_ids, tool_tags=True)
        parse = self.episode.parse or partial(
            parse_tool_calls, format=codec.tool_format, schemas=self.episode.schemas
        )
        try:
            calls: list[ToolCall | Result] = list(parse(solution))
        except MalformedCallError as error:
            calls = [Result(f"error: {error}", failed=True)]
        if not calls:
            self.ending = Ending.ANSWER
        return calls

    def add_results(self, results: Sequence[Result]) -> None:
        """Append what the tools of the last turn returned."""
        self.turns[-1] = replace(self.turns[-1], results=tuple(results))
        if len(self.turns) == self.limits.turns:
            self.ending = Ending.TURNS
            return
        ids = self.renderer.between(self.episode.role, [result.text for result in results])
        self._append(ids, [0] * len(ids), [None] * len(ids))

    def trajectory(self) -> Trajectory:
        """The episode that has ended; tool results behind its last turn are left out."""
        assert self.ending is not None
        rollouts = [turn.rollout for turn in self.turns]
        answered, score = self.ending is Ending.ANSWER, self.episode.score
        length = max(at for at, sampled in enumerate(self._mask, 1) if sampled)
        prompt, final = rollouts[0].prompt_ids, rollouts[-1]
        rollout = Rollout(
            prompt_ids=prompt,
            completion_ids=tuple(self.ids[len(prompt) :][:length]),
            env_mask=tuple(self._mask[:length]),
            logprobs=tuple(self._logprobs[:length]),
            solution_ids=final.solution_ids if answered else (),
            solution_text_ids=final.solution_text_ids if answered else (),
            thinking_tokens=sum(r.thinking_tokens for r in rollouts),
            finished=answered,
            cut=any(r.cut for r in rollouts),
            usage=sum((r.usage for r in rollouts), Usage()),
        )
        scored = None
        if answered and score is not None:
            scored = score(self.renderer.codec.decode(final.solution_text_ids))
        return Trajectory(rollout, tuple(self.turns), self.ending, scored)

    def _append(self, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float | None]) -> None:
        self.ids += ids
        self._mask += mask
        self._logprobs += logprobs


def run_episodes(
    runners: Sequence[EpisodeRunner],
    asked: Callable[[int], Sequence[Budget]],
    decode: Callable[[Sequence[Call], int], Sequence[Rollout]],
) -> list[Trajectory]:
    """Run every episode to its end, together.

    Args:
        runners: all of one run: their limits are the same.
        asked: number of the turn (from 0) -> what each episode asks for in that turn.
        decode: (calls, number of the turn) -> one rollout a call, in their order.

    Raises:
        CapExceededError, InvalidBudgetError: not even the first turn of an episode fits.
    """
    active = list(range(len(runners)))
    for turn in range(runners[0].limits.turns if runners else 0):
        budgets = asked(turn)
        grants = {i: grant for i in active if (grant := runners[i].next_grant(budgets[i]))}
        if not grants:
            break
        calls = [(tuple(runners[i].ids), grant) for i, grant in grants.items()]
        for (i, grant), rollout in zip(grants.items(), decode(calls, turn), strict=True):
            runners[i].add_turn(grant, rollout)
        _run_tools([runners[i] for i in grants if runners[i].ending is None])
        active = [i for i in grants if runners[i].ending is None]
    return [runner.trajectory() for runner in runners]


def _run_tools(runners: Sequence[EpisodeRunner]) -> None:
    """Run the tool calls of each episode's last turn, side by side."""
    wanted = [runner.tool_calls() for runner in runners]
    jobs = [
        (runner.episode.tools, call)
        for runner, calls in zip(runners, wanted, strict=True)
        for call in calls
        if isinstance(call, ToolCall)
    ]
    if not any(wanted):
        return
    limits = runners[0].limits
    done = iter(run_tools(jobs, seconds=limits.tool_seconds, characters=limits.tool_characters))
    for runner, calls in zip(runners, wanted, strict=True):
        if calls:
            runner.add_results([next(done) if isinstance(call, ToolCall) else call for call in calls])
