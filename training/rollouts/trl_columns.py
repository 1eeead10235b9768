"""What TRL asks of a ``rollout_func``: its arguments' batch, and the columns that it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .rollout import Rollout

RolloutFunc = Callable[[list[Any], Any], dict[str, Any]]
"""(prompts, trainer) -> columns: the ``rollout_func`` of TRL's GRPOTrainer (experimental API of TRL 1.x)."""


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
