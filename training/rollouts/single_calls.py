"""Rollouts of single calls, which E1 is trained on (Elastic Reasoning, arXiv 2505.05315, section 3.2).

`elastic_agent.training.budgets.distributions` decides which budget a group gets; an engine decodes
(`elastic_agent.training.rollouts.engines`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.told_budget import behind

from ..budgets.distributions import STATED, Budgets, Wording, call_seeds, deal_samples
from .engines.engine import Batch, Decode
from .engines.in_process import decode_in_process
from .prompts import codec_of, prompt_ids_of
from .rollout import Rollout
from .trl_columns import RolloutFunc, batch_of, for_trl


@dataclass(frozen=True, slots=True)
class Defects:
    """Which of the authors' defects to reproduce (`authors_compat` in a config); none by default."""

    forced_close_in_loss: bool = False
    """The close that was appended is trained on like a sampled token."""
    fake_end: bool = False
    """A solution cut off by s is trained to end there, where padding and end of text are one token."""


def for_loss(rollout: Rollout, tokenizer: Any, defects: Defects) -> tuple[list[int], list[int]]:
    """(completion ids, loss mask) of one sample as TRL gets them: exactly the sampled tokens count."""
    ids, mask = list(rollout.completion_ids), list(rollout.env_mask)
    if defects.forced_close_in_loss:
        mask = [1] * len(mask)
    if defects.fake_end and not rollout.finished and tokenizer.pad_token_id == tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
        mask.append(1)
    return ids, mask


def make_rollout_func(
    tokenizer: Any,
    *,
    budgets: Budgets,
    context: int,
    sampling: Sampling,
    seed: int,
    stated: Wording | None = None,
    engine: Decode = decode_in_process,
    defects: Defects | None = None,
    markers: MarkerText | None = None,
    wrap_up: str | None = None,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer (experimental API of TRL 1.x).

    TRL calls it with prompts already repeated, ``trainer.num_generations`` times each in a row; with several
    processes each gets its part of the batch. Nothing is remembered from call to call: budgets and samples
    follow from the seed, the number of the batch and the call's number in the whole batch.

    Args:
        stated: t is asked for in the prompt and nothing is cut; the reward gets t + s as `length_target`.
        markers: the thinking markers, where they can't be found in the tokenizer.
        wrap_up: what is written before a forced close (`elastic_agent.generation.wrap_up`).
    """
    marks = markers_for(codec_of(tokenizer, markers), wrap_up=wrap_up)
    wrong = defects or Defects()

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        batch, accelerator = batch_of(trainer), trainer.accelerator
        dealt = deal_samples(
            budgets,
            len(prompts),
            trainer.num_generations,
            seed=seed,
            batch=batch,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        targets: dict[str, Any] = {}
        if stated is not None:
            targets = {"length_target": [(b.thinking or 0) + b.solution for b in dealt]}
            wording = STATED[stated]
            prompts = [behind(p, wording.format(t=b.thinking)) for p, b in zip(prompts, dealt, strict=True)]
            dealt = [Budget(None, b.solution) for b in dealt]
        calls = [(prompt_ids_of(tokenizer, p, markers), b) for p, b in zip(prompts, dealt, strict=True)]
        first = accelerator.process_index * len(calls)
        draws = call_seeds(seed, batch, 1, calls=range(first, first + len(calls)))
        done = engine(trainer, Batch(calls, marks, context, sampling, draws))
        given = [for_loss(r, tokenizer, wrong) for r in done]
        return for_trl(done, [b.thinking for b in dealt], given) | targets

    return rollout
