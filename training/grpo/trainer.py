"""TRL's GRPOTrainer with five of its private methods overridden, and nothing else. Nothing of TRL is copied.

Each override calls TRL's own method and hands the work to a module beside this one:

    _get_per_token_logps_and_entropies   log-probs in buckets of sequences of like length (`buckets`)
    _compute_loss                        rows without an advantage are left out of the update (`buckets`)
    _generate_and_score_completions      the rollouts may read whole rows, not prompts alone; rows may hold
                                         several sequences (`spans`); anytime rewards and rewards of calls
                                         give one advantage a token (`advantages`) in place of one a row
    _calculate_rewards                   failed rows have no reward; every batch is measured segment by
                                         segment (`batch_metrics`), at the one place where rewards and
                                         rollouts are known together
    _save_checkpoint                     a checkpoint is committed when it is complete (`checkpoints`)

TRL is pinned to one minor version for them; tests/training/grpo/test_trl_overrides.py fails where TRL moves.
This module imports TRL, which takes seconds: import it where a run starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from ..budgets.distributions import seeded
from ..config.schema import TrainConfig
from ..rollouts.engines.engine import is_sharded
from ..rollouts.trl_columns import RolloutFunc, batch_of
from .advantages import call_advantages, call_gains, token_advantages
from .batch_metrics import measure_batch
from .buckets import IdleRows, bucketed_logprobs
from .checkpoints import CheckpointWriter
from .sharding import most_of_all
from .spans import joined


class E1Trainer(GRPOTrainer):
    """TRL's trainer with the overrides above; further arguments are those of GRPOTrainer.

    Attributes:
        skips_idle: rows without an advantage are left out: not with a KL term, nor where the loss reads the
            entropies of every row.
        rollout_rows: the rows of the batch that is being made: an agent's environment needs more of a row
            than its prompt.
    """

    rollout_rows: Sequence[Mapping[str, Any]] = ()
    _idle: IdleRows | None = None
    """During an update with `skips_idle`: the rows that are left out."""
    _sequence_ids: torch.Tensor | None = None
    """Of the rows whose log-probs are computed now, where they hold several sequences (`Spans.of`)."""

    def __init__(self, config: TrainConfig, *, rollout_func: RolloutFunc, **arguments: Any) -> None:
        super().__init__(rollout_func=partial(self._roll, rollout_func), **arguments)
        self._bucket_tokens = config.device.bucket_tokens
        self._context = config.rollout.context
        self._anytime = config.anytime
        given: Any = self.args
        reads_entropies = given.use_adaptive_entropy or given.top_entropy_quantile < 1 or given.entropy_coef
        self.skips_idle = given.beta == 0 and not reads_entropies
        folder = str(self.args.output_dir)
        self._checkpoints = CheckpointWriter(Path(folder), config.checkpoint.keep, self.accelerator)

    def note(self, numbers: Mapping[str, float], mode: str = "train") -> None:
        """Log numbers with the batch that is being made; they go TRL's own way to every `report_to`."""
        for name, value in numbers.items():
            self._metrics[mode][name].append(value)

    def _roll(self, rollout_func: RolloutFunc, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """The rollouts of a batch. TRL keeps their columns to itself until it has computed log-probs."""
        columns = rollout_func(prompts, trainer)
        ids = columns.get("sequence_ids")
        self._sequence_ids = None if ids is None else joined(ids, self.accelerator.device)
        return columns

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        def compute(ids: Any, mask: Any, keep: int) -> Any:
            return super_method(model, ids, mask, keep, *args, **kwargs)[:2]

        super_method = super()._get_per_token_logps_and_entropies
        agree = partial(most_of_all, device=input_ids.device) if is_sharded(self) else None
        found = bucketed_logprobs(
            compute,
            input_ids,
            attention_mask,
            logits_to_keep,
            self._bucket_tokens,
            sequence_ids=self._sequence_ids,
            idle=self._idle,
            agree=agree,
        )
        return *found, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.skips_idle:
            self._idle = IdleRows.of(inputs["advantages"], inputs.get("old_per_token_logps"))
        self._sequence_ids = inputs.get("sequence_ids")
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        finally:
            self._idle = self._sequence_ids = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.rollout_rows = inputs
        if self.model.training:  # type: ignore[union-attr]
            # What else is drawn (TRL's order of rows, dropout) follows from the batch: a run resumes without
            # the random states of processes that are lost
            draws = seeded(self.args.seed, batch_of(self), self.accelerator.process_index)
            torch.manual_seed(draws)
        output = super()._generate_and_score_completions(inputs)
        if self._sequence_ids is not None:  # TRL shuffles and splits it with the rows
            output["sequence_ids"], self._sequence_ids = self._sequence_ids, None
        if "call_rewards" in inputs[0]:
            output["advantages"] = self._with_call_rewards(inputs, output)
        if self._anytime is not None:
            pairs = torch.stack([row["advantage_pair"] for row in inputs])
            solutions = [row["solution_tokens"] for row in inputs]
            output["advantages"] = token_advantages(pairs, solutions, output["completion_mask"])
        return output

    def _with_call_rewards(self, rows: list[dict[str, Any]], output: dict[str, Any]) -> Any:
        """The advantages of a batch with what its calls earned, one a token."""
        rewards = [None if row.get("failed") else row["call_rewards"] for row in rows]
        gains = call_gains(gather_object(rewards), self._group)
        first = self.accelerator.process_index * len(rows)
        call_ids = joined([row["call_ids"] for row in rows], output["advantages"].device)
        mask = output["completion_mask"] * output["tool_mask"]
        return call_advantages(output["advantages"], gains[first : first + len(rows)], call_ids, mask)

    @property
    def _group(self) -> int:
        training: bool = self.model.training  # type: ignore[union-attr]
        group: Any = self.num_generations if training else self.num_generations_eval
        return int(group)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        """TRL's rewards, [rows of all processes, functions]. A failed row has none: nan.

        TRL leaves nan out of its group's mean and out of its standard deviation (that of the others, by one
        less than their number), and gives the row the advantage 0. A group with no other row teaches nothing,
        nor does one with a single other row, whose standard deviation is not defined.
        """
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if inputs and "failed" in inputs[0]:
            failed = gather_object([bool(row["failed"]) for row in inputs])
            rewards[torch.tensor(failed, device=rewards.device)] = torch.nan
        if inputs and "thinking_limit" in inputs[0]:
            total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            total[torch.isnan(rewards).all(dim=1)] = torch.nan
            found = measure_batch(
                inputs,
                total,
                gather_object,
                process=self.accelerator.process_index,
                group=self._group,
                context=self._context,
                anytime=self._anytime,
            )
            self.note(found, "train" if self.model.training else "eval")  # type: ignore[union-attr]
        return rewards

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save = super()._save_checkpoint
        self._checkpoints.write(self.state.global_step, lambda: save(model, trial))  # type: ignore[no-untyped-call]
