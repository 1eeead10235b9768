"""Budget-constrained rollouts, which E1 is trained on (Elastic Reasoning, arXiv 2505.05315, section 3.2).

Each sample runs through the same two-phase machine as a live call: at most t thinking tokens, the close, at
most s solution tokens. A forced close is part of the completion, but not of the loss, and has no log-prob
(``env_mask`` 0). `elastic_agent.training.budgets.distributions` decides which budget a group gets. An
`Engine` decodes: `decode_in_process`, or the one in `elastic_agent.training.rollouts.vllm_servers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.generation.machine_runner import run_batch
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.markers import Markers
from elastic_agent.prompts.tokenizer import HFCodec
from elastic_agent.usage import Usage

from ..budgets.distributions import STATED, Budgets, Wording, deal_samples, seeded

Prompt = Sequence[dict[str, str]]
RolloutFunc = Callable[[list[Any], Any], dict[str, Any]]
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


@lru_cache(maxsize=8)
def codec_of(tokenizer: Any, markers: MarkerText | None = None) -> HFCodec:
    """The codec of live calls: a model is trained on the prompts, markers and ends of text that it is served
    with."""
    return HFCodec(tokenizer, model=tokenizer.name_or_path or "this model", markers=markers)


def markers_of(tokenizer: Any, markers: MarkerText | None = None) -> Markers:
    """The end-of-thinking marker and every end of text of a Hugging Face tokenizer."""
    return codec_of(tokenizer, markers).markers


def prompt_ids_of(tokenizer: Any, messages: Prompt, markers: MarkerText | None = None) -> list[int]:
    """A conversation as ids, generation prompt included. Control strings in it stay text; the thinking of
    earlier answers is left out, as chat templates do."""
    codec = codec_of(tokenizer, markers)
    return codec.encode_chat([_answer_only(message, codec.markers.close_text) for message in messages])


def _answer_only(message: Mapping[str, Any], close: str) -> Mapping[str, Any]:
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str) or close not in content:
        return message
    return {**message, "content": content.rpartition(close)[2].lstrip()}


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


def roll_out(
    decoder: BatchDecoder, calls: Sequence[Call], markers: Markers, *, context: int, sampling: Sampling
) -> list[Rollout]:
    """Sample every (prompt ids, budget) to its end, together; results in the order of the calls."""
    machines = [machine_for(prompt, budget, markers, context) for prompt, budget in calls]
    run_batch(decoder, machines, sampling)
    return [rollout_of(machine) for machine in machines]


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


Engine = Callable[[Any, Sequence[Call], Markers, int, Sampling, int], list[Rollout]]
"""(trainer, calls, markers, context, sampling, seed) -> one rollout a call, in their order."""

_MOST_ROWS = 256  # rows decoded together, on one device


def whole_model(trainer: Any) -> Any:
    """The model in training, its weights all on this device.

    Raises:
        RuntimeError: FSDP or DeepSpeed may have spread them.
    """
    if getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False):
        raise RuntimeError(
            "rollouts need whole weights on each device, and FSDP or DeepSpeed may have spread them: launch "
            "without, and train with lora where memory is short"
        )
    return trainer.accelerator.unwrap_model(trainer.model)


def decode_in_process(
    trainer: Any,
    calls: Sequence[Call],
    markers: Markers,
    context: int,
    sampling: Sampling,
    seed: int,
) -> list[Rollout]:
    """The engine "transformers": the weights in training, on the device where they are."""
    import torch

    model = whole_model(trainer)
    was_training = model.training
    model.eval()
    try:
        generator = torch.Generator().manual_seed(seed)
        decoder = BatchDecoder(model, max_rows=min(len(calls), _MOST_ROWS), generator=generator)
        return roll_out(decoder, calls, markers, context=context, sampling=sampling)
    finally:
        model.train(was_training)


def asking(prompt: Prompt, wording: str, budget: Budget) -> list[dict[str, str]]:
    """The conversation with its last message asking for t tokens of thinking."""
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']} {wording.format(t=budget.thinking)}"}]


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
        # None: TRL computes the log-probs itself, with the weights that sampled. A server's own differ by its
        # rounding, which an engine measures instead (rollout/logprob_gap)
        "logprobs": None,
        "env_mask": [mask for _, mask in given],
        "solution_ids": [list(r.solution_text_ids) for r in done],
        "finished": [r.finished for r in done],
        "cut": [r.cut for r in done],
        "forced_tokens": [r.usage.forced for r in done],
        "thinking_tokens": [r.thinking_tokens for r in done],
        "solution_tokens": [r.usage.solution for r in done],
        "thinking_limit": list(limits),
    }


def batch_of(trainer: Any) -> int:
    """Which batch of rollouts comes next, from 0: what draws depend on, so a resumed run repeats them."""
    arguments = trainer.args
    passes: int = arguments.steps_per_generation * arguments.num_iterations
    accumulated: int = arguments.gradient_accumulation_steps
    step: int = trainer.state.global_step
    return step // max(1, passes // accumulated)


def make_rollout_func(
    tokenizer: Any,
    *,
    budgets: Budgets,
    context: int,
    sampling: Sampling,
    seed: int,
    stated: Wording | None = None,
    engine: Engine = decode_in_process,
    defects: Defects | None = None,
    markers: MarkerText | None = None,
    wrap_up: str | None = None,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer (experimental API of TRL 1.x).

    TRL calls it with prompts already repeated, ``trainer.num_generations`` times each in a row; with several
    processes each gets its part of the batch. Nothing is remembered from call to call: budgets and samples
    follow from the seed, the number of the batch and the process.

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
            prompts = [asking(p, STATED[stated], b) for p, b in zip(prompts, dealt, strict=True)]
            dealt = [Budget(None, b.solution) for b in dealt]
        calls = [(prompt_ids_of(tokenizer, p, markers), b) for p, b in zip(prompts, dealt, strict=True)]
        draws = seeded(seed, batch, 1 + accelerator.process_index)
        done = engine(trainer, calls, marks, context, sampling, draws)
        given = [for_loss(r, tokenizer, wrong) for r in done]
        return for_trl(done, [b.thinking for b in dealt], given) | targets

    return rollout
