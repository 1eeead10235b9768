"""TRL's GRPOTrainer with six additions; each overrides methods, and nothing of TRL is copied.

- Log-probs are computed in buckets of like length: batches that mix t=24 with unlimited thinking would
  otherwise be padding for the most part.
- Rows without an advantage (groups all right or all wrong) are left out of the update where nothing else in
  the loss looks at them: they have no gradient, and are often a half of the batch.
- Every batch is measured segment by segment (`elastic_agent.training.grpo.metrics`), where rewards and
rollouts
  are known together; the numbers take TRL's own way to every `report_to`.
- Under dense rewards the advantages that TRL made, one a row, give way to one a token
  (`elastic_agent.training.grpo.advantages`); its loss takes either.
- The rows of a batch are kept at hand for the rollouts: TRL hands on their prompts alone.
- A checkpoint is sealed when it is whole (`elastic_agent.training.grpo.checkpoints`), and a full disk costs a
  checkpoint, not the run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.schema import DenseConfig
from .advantages import anytime, by_cut, credit, spread
from .checkpoints import checkpoints, fault, prune, seal, unseal
from .metrics import AGENT, Sample, agent_metrics, segment_metrics

_MOST_FAILURES = 3  # checkpoints in a row that may fail before the run is stopped


def make_trainer_class() -> Any:
    """The trainer's class; made when called, since TRL takes seconds to import."""
    import torch
    from accelerate.utils import gather_object
    from trl import GRPOTrainer

    class BucketedGRPOTrainer(GRPOTrainer):
        bucket_tokens = 8192
        context = 1 << 20
        dense: DenseConfig | None = None
        keep_checkpoints = 2
        failed_checkpoints = 0
        skips_idle = False
        """Whether rows without an advantage are left out: not with a KL term or an entropy bonus."""
        idle: Any = None  # during an update: which rows that are, and the log-probs that stand in for theirs

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            prompts = attention_mask[:, :-logits_to_keep].sum(1)
            answers = attention_mask[:, -logits_to_keep:].sum(1)
            order = torch.argsort(prompts + answers).tolist()
            if self.idle is not None:  # one row always stays: the loss needs a gradient, of 0 if need be
                order = [row for row in order if not self.idle[0][row]] or order[:1]
            split = input_ids.shape[1] - logits_to_keep
            kept: list[tuple[Any, Any, Any]] = []
            for rows in _buckets(order, (prompts + answers).tolist(), self.bucket_tokens):
                left, right = int(prompts[rows].max()), int(answers[rows].max())
                window = slice(split - left, split + right)
                logps, entropies, _ = super()._get_per_token_logps_and_entropies(
                    model, input_ids[rows, window], attention_mask[rows, window], right, *args, **kwargs
                )
                pad = (0, logits_to_keep - right)
                fill = torch.nn.functional.pad
                kept.append((rows, fill(logps, pad), None if entropies is None else fill(entropies, pad)))
            where = torch.tensor([row for rows, _, _ in kept for row in rows], device=input_ids.device)
            logps = torch.cat([logps for _, logps, _ in kept])
            rest = logps.new_zeros(len(input_ids), logits_to_keep)
            if self.idle is not None and self.idle[1] is not None:
                rest = self.idle[1]
            every = rest.index_copy(0, where, logps)
            if kept[0][2] is None:
                return every, None, None
            entropies = torch.cat([entropies for _, _, entropies in kept])
            # TRL logs their mean over all tokens: rows that were left out get the mean of the others
            real = attention_mask[where, -logits_to_keep:]
            mean = (entropies * real).sum() / real.sum().clamp(min=1)
            return every, mean.expand_as(rest).index_copy(0, where, entropies), None

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            if self.skips_idle:
                none = inputs["advantages"].reshape(len(inputs["advantages"]), -1) == 0
                self.idle = none.all(1).tolist(), inputs.get("old_per_token_logps")
            try:
                return super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
            finally:
                self.idle = None

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
            self.rollout_rows = inputs  # an agent's environment needs more of a row than its prompt
            output = super()._generate_and_score_completions(inputs)
            if self.dense is not None:
                credits = torch.stack([row["credit"] for row in inputs])
                solutions = [row["solution_tokens"] for row in inputs]
                output["advantages"] = spread(credits, solutions, output["completion_mask"])
            return output

        def note(self, numbers: Mapping[str, float]) -> None:
            """Log numbers with the batch that is being made."""
            for name, value in numbers.items():
                self._metrics["train"][name].append(value)

        def _calculate_rewards(
            self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
        ) -> Any:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            if not inputs or "thinking_limit" not in inputs[0]:
                return rewards
            total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            total[torch.isnan(rewards).all(dim=1)] = torch.nan
            measured = gather_object([_measured(row) for row in inputs])
            samples = [
                Sample(**numbers, reward=reward)
                for numbers, reward in zip(measured, total.tolist(), strict=True)
            ]
            model: Any = self.model
            mode = "train" if model.training else "eval"
            group: Any = self.num_generations if model.training else self.num_generations_eval
            found: dict[str, float] = {}
            if self.dense is not None:
                first = self.accelerator.process_index * len(inputs)
                credits = credit(total, group, self.dense)[first : first + len(inputs)]
                for row, pair in zip(inputs, credits, strict=True):
                    row["credit"] = pair
                found = anytime(samples, self.dense)
                samples = by_cut(samples, group, self.dense)
                group //= self.dense.cuts
            if "turns" in inputs[0]:
                found |= agent_metrics(gather_object([{name: row[name] for name in AGENT} for row in inputs]))
            for name, value in (found | segment_metrics(samples, group, self.context)).items():
                self._metrics[mode][name].append(value)
            return rewards

        def rescue(self) -> str:
            """A run must stop: write a checkpoint of the last finished update, and say what is there."""
            folder = Path(self._get_output_dir(trial=None))
            step = self.state.global_step
            # Each process has a part of a checkpoint, and the others may be doing well
            if step and self.accelerator.num_processes == 1 and fault(folder / f"checkpoint-{step}"):
                self._save_checkpoint(self.model, None)
            good = [path for _, path in checkpoints(folder) if fault(path) is None]
            if not good:
                return "there is no checkpoint yet, so --resume starts from the beginning"
            return f"--resume goes on from {good[-1]}"

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            folder = Path(self._get_output_dir(trial=trial))
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            alone = self.accelerator.num_processes == 1
            if self.accelerator.is_main_process:
                unseal(checkpoint)
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
                self.accelerator.wait_for_everyone()
                if self.accelerator.is_main_process:
                    seal(checkpoint)
            except Exception as error:
                # With several processes the others would wait for ever. What fails is not only OSError: torch
                # and safetensors report a full disk as errors of their own.
                self.failed_checkpoints += 1
                if not alone or self.failed_checkpoints >= _MOST_FAILURES:
                    raise
                shutil.rmtree(checkpoint, ignore_errors=True)
                good = [path.name for _, path in checkpoints(folder) if fault(path) is None]
                print(
                    f"{checkpoint.name} could not be written ({error}); training goes on, and the last good "
                    f"one is {good[-1] if good else 'still to come'}",
                    file=sys.stderr,
                    flush=True,
                )
                return
            self.failed_checkpoints = 0
            if self.accelerator.is_main_process:
                prune(folder, self.keep_checkpoints)

    return BucketedGRPOTrainer


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Sample` but for its reward, from what the rollout handed on."""
    return {
        "limit": row["thinking_limit"],
        "thinking": row["thinking_tokens"],
        "solution": row["solution_tokens"],
        "forced": row["forced_tokens"],
        "cut": row["cut"],
        "finished": row["finished"],
    }


def _buckets(order: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """Rows in rising order of length, cut into buckets of at most `room` padded tokens."""
    buckets: list[list[int]] = []
    for row in order:
        if buckets and (len(buckets[-1]) + 1) * lengths[row] <= room:
            buckets[-1].append(row)
        else:
            buckets.append([row])
    return buckets
