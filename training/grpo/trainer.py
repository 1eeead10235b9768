"""TRL's GRPOTrainer with six additions. Each overrides a method; nothing of TRL is copied.

- Log-probs are computed in buckets of like length (`buckets`).
- Rows without an advantage are left out of the update where nothing else in the loss reads them (`buckets`).
- Every batch is measured segment by segment (`metrics`), at the one place where rewards and rollouts are
  known together. The numbers go TRL's own way to every `report_to`.
- Under anytime rewards one advantage a token (`advantages`) replaces TRL's one a row; its loss takes either.
- The rows of a batch are kept for the rollouts: TRL hands on their prompts alone.
- A checkpoint is committed when it is complete (`checkpoints`); a full disk costs a checkpoint, not the run.

This module imports TRL, which takes seconds: import it where a run starts.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from ..config.schema import AnytimeConfig, TrainConfig
from .advantages import anytime_metrics, by_cut, row_advantages, token_advantages
from .buckets import IdleRows, bucketed_logprobs
from .checkpoints import commit, complete_checkpoints, fault, prune, uncommit
from .metrics import AGENT, SampleStats, agent_metrics, segment_metrics

_MOST_FAILURES = 3  # checkpoints in a row that may fail before the run is stopped


class E1Trainer(GRPOTrainer):
    """TRL's trainer with the additions above; `configure` sets them up, since the constructor is TRL's."""

    bucket_tokens = 8192
    context = 1 << 20
    anytime: AnytimeConfig | None = None
    keep_checkpoints = 2
    failed_checkpoints = 0
    skips_idle = False
    """Whether rows without an advantage are left out: not with a KL term or an entropy bonus."""
    idle: IdleRows | None = None
    """During an update with `skips_idle`: the rows that are left out."""
    rollout_rows: Sequence[Mapping[str, Any]] = ()
    """The rows of the batch that is being made: an agent's environment needs more of a row than its
    prompt."""

    def configure(self, config: TrainConfig) -> None:
        """Take over what a run's config says about the additions."""
        self.bucket_tokens = config.device.bucket_tokens
        self.context = config.rollout.context
        self.anytime = config.anytime
        self.keep_checkpoints = config.checkpoint.keep
        self.skips_idle = config.learning.kl == config.learning.entropy == 0

    def note(self, numbers: Mapping[str, float]) -> None:
        """Log numbers with the batch that is being made."""
        for name, value in numbers.items():
            self._metrics["train"][name].append(value)

    # ------------------------------------------------------------------------------------------- the update

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
        found = bucketed_logprobs(compute, attention_mask, logits_to_keep, self.bucket_tokens, self.idle)
        return *found, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.skips_idle:
            none = inputs["advantages"].reshape(len(inputs["advantages"]), -1) == 0
            self.idle = IdleRows(none.all(1).tolist(), inputs.get("old_per_token_logps"))
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        finally:
            self.idle = None

    # -------------------------------------------------------------------------------------------- the batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.rollout_rows = inputs
        output = super()._generate_and_score_completions(inputs)
        if self.anytime is not None:
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
            self._measure(inputs, total)
        return rewards

    def _measure(self, inputs: list[dict[str, Any]], total: torch.Tensor) -> None:
        """Log the metrics of a batch; under anytime rewards, also give each row its advantages.

        Args:
            inputs: the rows of this process.
            total: the rewards of all processes.
        """
        stats = gather_object([_stats(row) for row in inputs])
        samples = [SampleStats(**row, reward=r) for row, r in zip(stats, total.tolist(), strict=True)]
        model: Any = self.model
        mode = "train" if model.training else "eval"
        group: Any = self.num_generations if model.training else self.num_generations_eval
        found: dict[str, float] = {}
        if self.anytime is not None:
            first = self.accelerator.process_index * len(inputs)
            pairs = row_advantages(total, group, self.anytime)[first : first + len(inputs)]
            for row, pair in zip(inputs, pairs, strict=True):
                row["advantage_pair"] = pair
            found = anytime_metrics(samples, self.anytime)
            samples = by_cut(samples, group, self.anytime)
            group //= self.anytime.cuts
        if "turns" in inputs[0]:
            found |= agent_metrics(gather_object([{name: row[name] for name in AGENT} for row in inputs]))
        for name, value in (found | segment_metrics(samples, group, self.context)).items():
            self._metrics[mode][name].append(value)

    # -------------------------------------------------------------------------------------------- checkpoints

    def rescue(self) -> str:
        """Write a checkpoint of the last finished update, since the run must stop; returns how to go on."""
        folder = Path(self._get_output_dir(trial=None))
        step = self.state.global_step
        # Each of several processes has a part of a checkpoint, and the other processes may be doing well
        if step and self.accelerator.num_processes == 1 and fault(folder / f"checkpoint-{step}"):
            self._save_checkpoint(self.model, None)
        complete = complete_checkpoints(folder)
        if not complete:
            return "there is no checkpoint yet, so --resume starts from the beginning"
        return f"--resume goes on from {complete[-1]}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        main = self.accelerator.is_main_process
        if main:
            uncommit(checkpoint)
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
            self.accelerator.wait_for_everyone()
            if main:
                commit(checkpoint)
        except Exception as error:
            # With several processes the others would wait for ever. Not OSError alone: torch and safetensors
            # report a full disk as errors of their own.
            self.failed_checkpoints += 1
            if self.accelerator.num_processes > 1 or self.failed_checkpoints >= _MOST_FAILURES:
                raise
            shutil.rmtree(checkpoint, ignore_errors=True)
            complete = complete_checkpoints(folder)
            print(
                f"{checkpoint.name} could not be written ({error}); training goes on, and the last good "
                f"one is {complete[-1].name if complete else 'still to come'}",
                file=sys.stderr,
                flush=True,
            )
            return
        self.failed_checkpoints = 0
        if main:
            prune(folder, self.keep_checkpoints)


def _stats(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SampleStats` but for the reward, from the columns of a rollout."""
    return {
        "limit": row["thinking_limit"],
        "thinking": row["thinking_tokens"],
        "solution": row["solution_tokens"],
        "forced": row["forced_tokens"],
        "cut": row["cut"],
        "finished": row["finished"],
    }
