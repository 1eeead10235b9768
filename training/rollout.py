"""Budget-constrained rollouts: what E1 is trained on (Elastic Reasoning, arXiv 2505.05315, section 3.2).

Each sample runs through the same two-phase machine as a live call: at most t thinking tokens, the close,
at most s solution tokens. A forced close stands in the completion, masked out of the loss and without a
log-prob (``env_mask`` 0). All samples of one GRPO group get the same t, else the group would compare
budgets instead of answers. t is drawn per group from a mixture: training at several budgets, some of them
unlimited, is what keeps the unconstrained accuracy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.batch import run_batch
from elastic_agent.backends.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.markers import Markers, resolve_markers
from elastic_agent.phases import SolutionEnd, TwoPhase

Prompt = Sequence[dict[str, str]]
RolloutFunc = Callable[[list[Any], Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sample as the trainer needs it. `env_mask` is 1 for sampled and 0 for forced tokens."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    env_mask: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    solution_ids: tuple[int, ...]
    thinking_tokens: int
    finished: bool
    """The solution ended by itself, within its limit."""
    cut: bool
    """The close was forced."""


def markers_of(tokenizer: Any) -> Markers:
    """The end-of-thinking marker and the end-of-text ids of a Hugging Face tokenizer."""
    return resolve_markers(
        vocabulary=tokenizer.get_vocab(),
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        chat_template=tokenizer.chat_template,
        eos_ids=[tokenizer.eos_token_id],
        model=tokenizer.name_or_path or "this model",
    )


def prompt_ids_of(tokenizer: Any, messages: Prompt) -> list[int]:
    """A conversation as ids, generation prompt included."""
    rendered = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    return list(rendered["input_ids"])


def machine_for(prompt_ids: Sequence[int], budget: Budget, markers: Markers, context: int) -> TwoPhase:
    """The two-phase machine of one sample; unlimited thinking is bounded by `context` tokens in all."""
    bounded = budget.bounded(context - len(prompt_ids), len(markers.close_ids))
    return TwoPhase(prompt_ids, bounded, markers, markers.opening(prompt_ids))


def rollout_of(machine: TwoPhase) -> Rollout:
    """What a finished machine has to say to the trainer."""
    return Rollout(
        prompt_ids=machine.prompt_ids,
        completion_ids=tuple(machine.output_ids),
        env_mask=tuple(int(sampled) for sampled in machine.sampled),
        logprobs=tuple(machine.logprobs),
        solution_ids=machine.solution_ids,
        thinking_tokens=machine.usage.thinking,
        finished=machine.solution_end is SolutionEnd.EOS,
        cut=machine.usage.forced > 0,
    )


def roll_out(
    decoder: BatchDecoder,
    calls: Sequence[tuple[Sequence[int], Budget]],
    markers: Markers,
    *,
    context: int,
    sampling: Sampling,
) -> list[Rollout]:
    """Sample every (prompt ids, budget) to its end, together; results in the order of the calls."""
    machines = [machine_for(prompt, budget, markers, context) for prompt, budget in calls]
    run_batch(decoder, machines, sampling)
    return [rollout_of(machine) for machine in machines]


def group_budgets(
    rng: random.Random, samples: int, group: int, thinking: Sequence[int | None], solution: int
) -> list[Budget]:
    """One budget a sample, the same within each group of `group` samples.

    The mixture is dealt out like cards, so every batch holds its parts as evenly as they go.
    """
    if samples % group:
        raise ValueError(f"{samples} samples are not whole groups of {group}")
    groups = samples // group
    deck = [thinking[i % len(thinking)] for i in range(groups)]
    rng.shuffle(deck)
    return [Budget(t, solution) for t in deck for _ in range(group)]


def make_rollout_func(
    tokenizer: Any,
    *,
    thinking: Sequence[int | None],
    solution: int,
    context: int,
    sampling: Sampling,
    seed: int,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer (experimental API of TRL 1.x).

    TRL calls it with prompts already repeated, ``trainer.num_generations`` times each in a row.
    """
    import torch

    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    markers = markers_of(tokenizer)

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        budgets = group_budgets(rng, len(prompts), trainer.num_generations, thinking, solution)
        calls = [(prompt_ids_of(tokenizer, p), b) for p, b in zip(prompts, budgets, strict=True)]
        was_training = model.training
        model.eval()
        decoder = BatchDecoder(model, max_rows=len(calls), generator=generator)
        done = roll_out(decoder, calls, markers, context=context, sampling=sampling)
        model.train(was_training)
        return {
            "prompt_ids": [list(r.prompt_ids) for r in done],
            "completion_ids": [list(r.completion_ids) for r in done],
            "logprobs": None,
            "env_mask": [list(r.env_mask) for r in done],
            "solution_ids": [list(r.solution_ids) for r in done],
            "finished": [r.finished for r in done],
            "thinking_tokens": [r.thinking_tokens for r in done],
            "thinking_limit": [b.thinking for b in budgets],
        }

    return rollout
