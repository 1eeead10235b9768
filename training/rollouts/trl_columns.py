"""What TRL asks of a ``rollout_func``: its arguments' batch, and the columns that it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from .rollout import Rollout

RolloutFunc = Callable[[list[Any], Any], dict[str, Any]]
"""(prompts, trainer) -> columns: the ``rollout_func`` of TRL's GRPOTrainer (experimental API of TRL 1.x)."""


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """An episode as one row for the trainer: its sequences one behind the other.

    The first sequence's leading prompt is the row's prompt; every other sequence stands in the completion
    with its leading prompt. All lists but `prompt_ids` and `call_solutions` are as long as `completion_ids`.

    Attributes:
        env_mask: 1 for what the policy has sampled.
        logprobs: at sampling time; None where not sampled.
        sequence_ids: 2k for the leading prompt of sequence k, 2k + 1 for all else of it.
        call_ids: the number of the call in whose output a token stands; -1 in none.
        call_solutions: of each call the tokens of its solution, the last of its output.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    env_mask: list[int]
    logprobs: list[float | None]
    sequence_ids: list[int]
    call_ids: list[int]
    call_solutions: list[int]

    @classmethod
    def placeholder(cls, token: int) -> Self:
        """A row that stands for nothing: TRL needs a prompt and a completion of at least one token."""
        return cls([token], [token], [0], [None], [1], [-1], [])


def episode_columns(
    rows: Sequence[EpisodeRow | None], failed: Sequence[bool], *, token: int, logprobs: bool
) -> dict[str, Any]:
    """TRL's own columns of a batch of episodes, and those that tell sequences and calls apart.

    A failed episode, and one in which nothing was sampled (None), becomes a placeholder: it is in no mean of
    the loss, and no pass computes its log-probs. `sequence_ids` is left out where every row is one sequence.

    Args:
        token: what a placeholder is made of, such as the end-of-text token.
        logprobs: the engine gives log-probs (it decodes with a copy of the weights).
    """
    empty = EpisodeRow.placeholder(token)
    kept = [empty if fault or row is None else row for row, fault in zip(rows, failed, strict=True)]
    columns: dict[str, Any] = {
        "prompt_ids": [row.prompt_ids for row in kept],
        "completion_ids": [row.completion_ids for row in kept],
        "logprobs": [row.logprobs for row in kept] if logprobs else None,
        "env_mask": [row.env_mask for row in kept],
        "call_ids": [row.call_ids for row in kept],
        "call_solutions": [row.call_solutions for row in kept],
        "first_prompt_ids": [row.prompt_ids for row in kept],  # TRL keeps `prompt_ids` to itself
        "sequences": [row.sequence_ids[-1] // 2 + 1 if any(row.env_mask) else 0 for row in kept],
        "failed": list(failed),
    }
    if max(columns["sequences"]) > 1:
        columns["sequence_ids"] = [row.sequence_ids for row in kept]
    return columns


def for_trl(
    done: Sequence[Rollout], limits: Sequence[int | None], given: Sequence[tuple[list[int], list[int]]]
) -> dict[str, Any]:
    """What a ``rollout_func`` returns: TRL's own keys, then columns for the reward and the metrics.

    Args:
        limits: each sample's t, for the histogram; the same within a group.
        given: each sample's (completion ids, loss mask).
    """
    return {
        "prompt_ids": [list(r.prompt_ids) for r in done],
        "completion_ids": [ids for ids, _ in given],
        "logprobs": _logprobs(done, given),
        "env_mask": [mask for _, mask in given],
        "solution_ids": [list(r.solution_text_ids) for r in done],
        "finished": [r.finished for r in done],
        "cut": [r.cut for r in done],
        "forced_tokens": [r.usage.forced for r in done],
        "thinking_tokens": [r.thinking_tokens for r in done],
        "solution_tokens": [r.usage.solution for r in done],
        "thinking_limit": list(limits),
    }


def _logprobs(
    done: Sequence[Rollout], given: Sequence[tuple[list[int], list[int]]]
) -> list[list[float | None]] | None:
    """Log-probs by the engine that sampled, which TRL corrects for (`.engines.correction`); None for a token
    that was forced. None in all: the engine gave none, since it decodes with the weights in training."""
    if not any(logprob is not None for rollout in done for logprob in rollout.logprobs):
        return None
    return [
        [*rollout.logprobs, *[None] * (len(ids) - len(rollout.logprobs))]
        for rollout, (ids, _) in zip(done, given, strict=True)
    ]


def batch_of(trainer: Any) -> int:
    """Which batch of rollouts comes next, from 0: what draws depend on, so a resumed run repeats them."""
    step: int = trainer.state.global_step
    return step // updates_of(trainer)


def updates_of(trainer: Any) -> int:
    """Optimizer updates a batch."""
    arguments = trainer.args
    passes: int = arguments.steps_per_generation * arguments.num_iterations
    accumulated: int = arguments.gradient_accumulation_steps
    return max(1, passes // accumulated)
