"""TRL's GRPOTrainer with five of its private methods overridden, and nothing else. Nothing of TRL is copied.

Each override calls TRL's own method and hands the work to a module beside this one:

    _get_per_token_logps_and_entropies   log-probs in buckets of like length (`buckets`)
    _compute_loss                        rows without an advantage are left out of the update (`buckets`)
    _generate_and_score_completions      the rollouts may read whole rows, not prompts alone; anytime rewards
                                         give one advantage a token (`advantages`) in place of one a row
    _calculate_rewards                   every batch is measured segment by segment (`batch_metrics`), at the
                                         one place where rewards and rollouts are known together
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
from ..rollouts.trl_columns import batch_of
from .advantages import token_advantages
from .batch_metrics import measure_batch
from .buckets import IdleRows, bucketed_logprobs
from .checkpoints import CheckpointWriter
from .sharding import most_of_all


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

    def __init__(self, config: TrainConfig, **arguments: Any) -> None:
        super().__init__(**arguments)
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

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        def compute(rows: list[int], columns: slice, keep: int) -> Any:
            ids, mask = input_ids[rows, columns], attention_mask[rows, columns]
            return super_method(model, ids, mask, keep, *args, **kwargs)[:2]

        super_method = super()._get_per_token_logps_and_entropies
        agree = partial(most_of_all, device=input_ids.device) if is_sharded(self) else None
        found = bucketed_logprobs(
            compute, attention_mask, logits_to_keep, self._bucket_tokens, self._idle, agree
        )
        return *found, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.skips_idle:
            self._idle = IdleRows.of(inputs["advantages"], inputs.get("old_per_token_logps"))
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        finally:
            self._idle = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.rollout_rows = inputs
        if self.model.training:  # type: ignore[union-attr]
            # What else is drawn (TRL's order of rows, dropout) follows from the batch: a run resumes without
            # the random states of processes that are lost
            draws = seeded(self.args.seed, batch_of(self), self.accelerator.process_index)
            torch.manual_seed(draws)
        output = super()._generate_and_score_completions(inputs)
        if self._anytime is not None:
            pairs = torch.stack([row["advantage_pair"] for row in inputs])
            solutions = [row["solution_tokens"] for row in inputs]
            output["advantages"] = token_advantages(pairs, solutions, output["completion_mask"])
        return output

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if inputs and "thinking_limit" in inputs[0]:
            total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            total[torch.isnan(rewards).all(dim=1)] = torch.nan
            training: bool = self.model.training  # type: ignore[union-attr]
            group: Any = self.num_generations if training else self.num_generations_eval
            found = measure_batch(
                inputs,
                total,
                gather_object,
                process=self.accelerator.process_index,
                group=group,
                context=self._context,
                anytime=self._anytime,
            )
            self.note(found, "train" if training else "eval")
        return rewards

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save = super()._save_checkpoint
        self._checkpoints.write(self.state.global_step, lambda: save(model, trial))  # type: ignore[no-untyped-call]
