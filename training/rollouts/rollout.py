"""One sample: its two-phase machine, and what is left of the machine for the trainer.

Each sample runs through the same two-phase machine as a live call: at most t thinking tokens, the close, at
most s solution tokens. A forced close is part of the completion, but not of the loss, and has no log-prob
(``env_mask`` 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elastic_agent.budget import Budget
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.markers import Markers
from elastic_agent.usage import Usage

Call = tuple[Sequence[int], Budget]
"""(prompt ids, budget) of one call."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sample as the trainer needs it. `env_mask` is 1 for sampled and 0 for forced tokens."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    env_mask: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    solution_ids: tuple[int, ...]
    solution_text_ids: tuple[int, ...]
    """Ids whose text is the solution: `solution_ids`, but where a token of the close has said some of it."""
    thinking_tokens: int
    finished: bool
    """The solution ended by itself, within its limit."""
    cut: bool
    """The close was forced."""
    usage: Usage
    """Its tokens by segment, forced ones apart."""


def machine_for(prompt_ids: Sequence[int], budget: Budget, markers: Markers, context: int) -> TwoPhase:
    """The two-phase machine of one sample; unlimited thinking is bounded by `context` tokens in all."""
    opening = markers.opening(prompt_ids)
    bounded = budget.bounded(context - len(prompt_ids), markers.close_length(opening))
    return TwoPhase(prompt_ids, bounded, markers, opening)


def rollout_of(machine: TwoPhase) -> Rollout:
    """The rollout of a finished machine."""
    return Rollout(
        prompt_ids=machine.prompt_ids,
        completion_ids=tuple(machine.output_ids),
        env_mask=tuple(int(sampled) for sampled in machine.sampled),
        logprobs=tuple(machine.logprobs),
        solution_ids=machine.solution_ids,
        solution_text_ids=machine.solution_text_ids,
        thinking_tokens=machine.usage.thinking,
        finished=machine.solution_end is SolutionEnd.EOS,
        cut=machine.usage.forced > 0,
        usage=machine.usage,
    )
