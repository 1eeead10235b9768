"""E1: GRPO on rollouts whose thinking is cut, so that a model answers well wherever it is cut.

    elastic-agent train --base DIR --output DIR [--seed N]

The second stage of e1-tiny (the first is elastic_agent.training.sft), on stock problems. Every group of
samples gets one thinking budget of a mixture; thinking is cut there, the close is forced and masked, and the
solution alone is rewarded. The model and a log of every step are written to --output.

TRL's GRPOTrainer does the learning; what is ours is the rollout (`elastic_agent.training.rollout`) and the
reward (`elastic_agent.training.rewards`). The log-probs of a batch are computed in buckets of like length,
because batches that mix t=24 with unlimited thinking would otherwise be padding for the most part.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.load import model_path
from elastic_agent.training.model import load_model, save_model
from elastic_agent.training.rewards import make_reward
from elastic_agent.training.rollout import make_rollout_func
from elastic_agent.training.stock_problems import make_problems


@dataclass(frozen=True, slots=True)
class E1Config:
    """Everything that decides a run."""

    base: Path
    """Model folder to start from."""
    output: Path
    """Where the model folder is written."""
    seed: int = 0
    """Seeds the problems, the budgets and the sampling."""
    steps: int = 80
    """Optimizer steps."""
    prompts: int = 16
    """Problems a step."""
    group: int = 12
    """Samples a problem; all of one group share one budget."""
    thinking: tuple[int | None, ...] = (24, 48, 96, None, None, None)
    """The mixture of t* that groups are dealt; None is unlimited: a half keeps the unconstrained accuracy."""
    solution: int = 96
    """s*, for every sample."""
    context: int = 512
    """Most tokens of a sample, prompt included: the bound of unlimited thinking."""
    learning_rate: float = 1.5e-4
    schedule: str = "linear"
    """The rate after warm-up: "linear" falls to zero; "constant_with_warmup" stays."""
    warmup_steps: int = 5
    clip: float = 0.2
    """PPO clip range. With one update a batch, as here, the ratio is 1 and it never bites."""
    kl: float = 0.0
    """Weight of the KL term against the base; 0 leaves the base out of memory."""
    loss: str = "dapo"
    """TRL's loss type; "dapo" is the mean over all sampled tokens of the batch."""
    temperature: float = 1.0
    """Rollout temperature. 1.0 keeps sampled and trained distribution the same."""
    bucket_tokens: int = 8192
    """Padded tokens in one forward pass of the loss."""
    save_every: int = 20


def make_dataset(config: E1Config) -> Any:
    """Enough problems of the train split for the run, as TRL wants them."""
    from datasets import Dataset

    problems = make_problems(config.seed + 1_000_003, config.prompts * config.steps, split="train")
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in problems]
    )


def make_trainer_class() -> Any:
    """GRPOTrainer whose log-probs are computed in buckets of like length."""
    import torch
    from trl import GRPOTrainer

    class BucketedGRPOTrainer(GRPOTrainer):
        bucket_tokens = 8192

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
            order = torch.argsort(prompts + answers)
            split = input_ids.shape[1] - logits_to_keep
            kept: list[tuple[Any, Any, Any]] = []
            for rows in _buckets(order.tolist(), (prompts + answers).tolist(), self.bucket_tokens):
                left, right = int(prompts[rows].max()), int(answers[rows].max())
                window = slice(split - left, split + right)
                logps, entropies, _ = super()._get_per_token_logps_and_entropies(
                    model, input_ids[rows, window], attention_mask[rows, window], right, *args, **kwargs
                )
                pad = (0, logits_to_keep - right)
                fill = torch.nn.functional.pad
                kept.append((rows, fill(logps, pad), None if entropies is None else fill(entropies, pad)))
            back = torch.argsort(torch.tensor([row for rows, _, _ in kept for row in rows]))
            every = torch.cat([logps for _, logps, _ in kept])[back]
            if kept[0][2] is None:
                return every, None, None
            return every, torch.cat([entropies for _, _, entropies in kept])[back], None

    return BucketedGRPOTrainer


def _buckets(order: list[int], lengths: list[int], room: int) -> list[list[int]]:
    """Rows in rising order of length, cut into buckets of at most `room` padded tokens."""
    buckets: list[list[int]] = []
    for row in order:
        if buckets and (len(buckets[-1]) + 1) * lengths[row] <= room:
            buckets[-1].append(row)
        else:
            buckets.append([row])
    return buckets


def train(config: E1Config) -> Any:
    """Run stage (b) and save the model. Returns the TRL trainer, its log in ``state.log_history``."""
    import torch
    from transformers import AutoTokenizer
    from trl import GRPOConfig

    torch.manual_seed(config.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(config.base))
    arguments = GRPOConfig(
        output_dir=str(config.output / "checkpoints"),
        seed=config.seed,
        max_steps=config.steps,
        per_device_train_batch_size=config.prompts * config.group,
        gradient_accumulation_steps=1,
        num_generations=config.group,
        max_completion_length=config.context,
        temperature=config.temperature,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=0.5,
        beta=config.kl,
        epsilon=config.clip,
        loss_type=config.loss,
        mask_truncated_completions=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_every,
        save_only_model=True,
        report_to=[],
        disable_tqdm=True,
    )
    sampling = Sampling(temperature=config.temperature, top_p=1.0)
    trainer_class = make_trainer_class()
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")  # pinned by our tests
    trainer = trainer_class(
        model=load_model(config.base),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=make_dataset(config),
        reward_funcs=[make_reward(tokenizer.decode)],
        rollout_func=make_rollout_func(
            tokenizer,
            thinking=config.thinking,
            solution=config.solution,
            context=config.context,
            sampling=sampling,
            seed=config.seed,
        ),
    )
    trainer.bucket_tokens = config.bucket_tokens
    trainer.train()
    save_model(trainer.model, config.output)
    log = json.dumps(trainer.state.log_history, indent=1, default=str)
    (config.output / "train_log.json").write_text(log)
    return trainer


def parse_mixture(text: str) -> tuple[int | None, ...]:
    """Read budgets: "24,48,96,none"."""
    return tuple(None if part.strip() in ("none", "inf") else int(part) for part in text.split(","))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="elastic-agent train" if argv is not None else None,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = E1Config(Path(), Path())
    mixture = ",".join("none" if t is None else str(t) for t in default.thinking)
    parser.add_argument(
        "--base",
        type=Path,
        required=True,
        metavar="MODEL",
        help="embedded model (e1-tiny-base) or a model folder to start from",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the model")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of problems, budgets and samples (default: 0)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=default.steps,
        metavar="N",
        help=f"optimizer steps, about 20 s each on one core for e1-tiny (default: {default.steps})",
    )
    parser.add_argument(
        "--thinking",
        type=parse_mixture,
        default=default.thinking,
        metavar="T,T,...",
        help=f"thinking budgets that groups are dealt; none is unlimited (default: {mixture})",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=default.learning_rate,
        metavar="X",
        help=f"at the start; it falls to zero (default: {default.learning_rate})",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    train(
        E1Config(
            base=Path(model_path(str(args.base))),
            output=args.output,
            seed=args.seed,
            steps=args.steps,
            thinking=args.thinking,
            learning_rate=args.learning_rate,
        )
    )


if __name__ == "__main__":
    main()
