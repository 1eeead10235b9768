"""The loop of an agent rollout: many episodes together, turn by turn.

Each round, every episode that goes on asks for a grant and makes its next call; the calls of a round are
decoded together, by whatever engine the run has; then the tools of the round run side by side. Rounds keep a
run repeatable: what is sampled follows from the seed, however long a tool takes.

An episode becomes one row for the trainer. Its completion is everything behind the first prompt: what the
model sampled (loss), forced closes, tool results and the template's glue (no loss, no log-prob). It ends

    answer    with a finished solution that calls no tool: the final answer, the one that is rewarded
    cut       a solution ran into its limit: half a tool call can't be run
    turns     the last turn that was allowed still called a tool
    tokens    what is left of the task's cap can't hold another call
    context   the model's context can't
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Protocol

from elastic_agent.budget import Budget
from elastic_agent.errors import CapExceededError, InvalidBudgetError
from elastic_agent.tool_calls import HERMES, ToolFormat
from elastic_agent.usage import Usage

from ..rollouts.two_phase import Call, Rollout
from .environment import (
    Episode,
    MalformedCallError,
    ToolCall,
    parse_tool_calls,
)
from .tools import Result, run_tools
from .turn_renderer import Splicer


class Granter(Protocol):
    """Gives the turns of one episode their budgets; `elastic_agent.scheduler.runtime.offline_task.TaskWalk`
    is one."""

    def grant(self, prompt: int, asked: Budget, last: bool) -> Budget:
        """What the next turn gets, at most what it asks for.

        Args:
            prompt: all ids before it, in tokens.
            asked: the turn's own limits; `thinking` is a number.
            last: no turn may follow.

        Raises:
            CapExceededError: what is left can't hold an answer.
        """
        ...

    def settle(self, usage: Usage) -> None:
        """The turn that was granted last has used this."""
        ...


class Ending(StrEnum):
    """Why an episode ended; see the module."""

    ANSWER = "answer"
    CUT = "cut"
    TURNS = "turns"
    TOKENS = "tokens"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every episode of a run.

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
    """One turn: what it was granted, the rollout that it was, and what its tool calls brought."""

    granted: Budget
    rollout: Rollout
    results: tuple[Result, ...] = ()


@dataclass(frozen=True, slots=True)
class Played:
    """An episode that has ended.

    Attributes:
        rollout: the whole of it as one sample. Thinking and usage are those of all turns together; the
            solution is the final answer's (empty without one); cut says that some turn's thinking was.
        turns: the turns in order; at least one.
        ending: why it ended.
        score: what the episode's own `score` gave the final answer; None without one or the other.
    """

    rollout: Rollout
    turns: tuple[Turn, ...]
    ending: Ending
    score: float | None


@dataclass(slots=True)
class Player:
    """An episode while it runs.

    Args:
        episode: its tools.
        ids: the first prompt, generation prompt included; what follows is appended.
        granter: gives its turns their budgets; None grants what is asked.
    """

    episode: Episode
    ids: list[int]
    granter: Granter | None = None
    turns: list[Turn] = field(default_factory=list, init=False)
    ending: Ending | None = field(default=None, init=False)
    _mask: list[int] = field(default_factory=list, init=False)
    _logprobs: list[float | None] = field(default_factory=list, init=False)

    def ask(self, asked: Budget, rules: Rules, close: int) -> Budget | None:
        """The next turn's grant; None: there is no room for one, and the episode has ended."""
        try:
            bounded = asked.bounded(rules.context - len(self.ids), close)
            if self.granter is None:
                return bounded
            return self.granter.grant(len(self.ids), bounded, len(self.turns) + 1 == rules.turns)
        except (InvalidBudgetError, CapExceededError) as error:
            if not self.turns:
                raise
            self.ending = Ending.TOKENS if isinstance(error, CapExceededError) else Ending.CONTEXT
            return None

    def take(self, granted: Budget, rollout: Rollout) -> None:
        """The next turn has been sampled."""
        if self.granter is not None:
            self.granter.settle(rollout.usage)
        self.turns.append(Turn(granted, rollout))
        self._append(rollout.completion_ids, rollout.env_mask, rollout.logprobs)
        if not rollout.finished:
            self.ending = Ending.CUT

    def calls(self, solution: str, format: ToolFormat = HERMES) -> list[ToolCall | Result]:
        """The tool calls of the last turn; a malformed one has its result already."""
        parse = self.episode.parse or partial(parse_tool_calls, format=format, schemas=self.episode.schemas)
        try:
            found: list[ToolCall | Result] = list(parse(solution))
        except MalformedCallError as error:
            found = [Result(f"error: {error}", failed=True)]
        if not found:
            self.ending = Ending.ANSWER
        return found

    def reply(self, results: Sequence[Result], splicer: Splicer, rules: Rules) -> None:
        """The tools of the last turn have answered."""
        last = self.turns[-1]
        self.turns[-1] = Turn(last.granted, last.rollout, tuple(results))
        if len(self.turns) == rules.turns:
            self.ending = Ending.TURNS
            return
        glue = splicer.between(self.episode.role, [result.text for result in results])
        self._append(glue, [0] * len(glue), [None] * len(glue))

    def played(self, decode: Callable[[Sequence[int]], str]) -> Played:
        """The whole episode. An end that no turn follows leaves no glue behind the last turn."""
        assert self.ending is not None
        rollouts = [turn.rollout for turn in self.turns]
        answered = self.ending is Ending.ANSWER
        length = max(at for at, sampled in enumerate(self._mask, 1) if sampled)
        solution = rollouts[-1].solution_ids if answered else ()
        shown, score = rollouts[-1].solution_text_ids if answered else (), self.episode.score
        prompt = rollouts[0].prompt_ids
        rollout = Rollout(
            prompt_ids=prompt,
            completion_ids=tuple(self.ids[len(prompt) :][:length]),
            env_mask=tuple(self._mask[:length]),
            logprobs=tuple(self._logprobs[:length]),
            solution_ids=solution,
            solution_text_ids=shown,
            thinking_tokens=sum(r.thinking_tokens for r in rollouts),
            finished=answered,
            cut=any(r.cut for r in rollouts),
            usage=sum((r.usage for r in rollouts), Usage()),
        )
        scored = score(decode(shown)) if answered and score is not None else None
        return Played(rollout, tuple(self.turns), self.ending, scored)

    def _append(self, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float | None]) -> None:
        self.ids += ids
        self._mask += mask
        self._logprobs += logprobs


def play(
    players: Sequence[Player],
    asked: Callable[[int], Sequence[Budget]],
    decode: Callable[[Sequence[Call], int], Sequence[Rollout]],
    splicer: Splicer,
    rules: Rules,
) -> list[Played]:
    """Play every episode to its end, together.

    Args:
        asked: turn number (from 0) -> each episode's own limits for it.
        decode: (calls, turn number) -> one rollout a call, in their order.

    Raises:
        CapExceededError, InvalidBudgetError: not even an episode's first turn can be granted.
    """
    going = list(range(len(players)))
    for turn in range(rules.turns):
        limits = asked(turn)
        grants = {i: grant for i in going if (grant := players[i].ask(limits[i], rules, splicer.close))}
        if not grants:
            break
        calls = [(tuple(players[i].ids), grant) for i, grant in grants.items()]
        for (i, grant), rollout in zip(grants.items(), decode(calls, turn), strict=True):
            players[i].take(grant, rollout)
        going = [i for i in grants if players[i].ending is None]
        _run_tools([players[i] for i in going], splicer, rules)
        going = [i for i in going if players[i].ending is None]
    return [player.played(splicer.codec.decode) for player in players]


def _run_tools(players: Sequence[Player], splicer: Splicer, rules: Rules) -> None:
    """The tool calls of everybody's last turn."""
    codec = splicer.codec
    said = [codec.decode(p.turns[-1].rollout.solution_text_ids, tool_tags=True) for p in players]
    wanted = [p.calls(text, codec.tool_format) for p, text in zip(players, said, strict=True)]
    jobs = [
        (p.episode.tools, call)
        for p, calls in zip(players, wanted, strict=True)
        for call in calls
        if isinstance(call, ToolCall)
    ]
    done = iter(run_tools(jobs, seconds=rules.tool_seconds, characters=rules.tool_characters))
    for player, calls in zip(players, wanted, strict=True):
        if calls:
            results = [next(done) if isinstance(call, ToolCall) else call for call in calls]
            player.reply(results, splicer, rules)
