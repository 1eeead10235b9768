"""Stage (a): the base of e1-tiny, trained from nothing on overthinking traces.

    python -m tools.e1_tiny.sft --output DIR [--seed N]

Fresh problems all the time, never the same batch twice; the loss is on the assistant's part alone. Batches
hold rows of like length, up to a fixed number of tokens. Matrices are trained with Muon, the rest with
AdamW; the rate warms up, stays, and falls to zero. Arithmetic emerges late: do not stop early.
A checkpoint is written every few hundred steps, so a crash loses little: --resume goes on from it, to the
same weights.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from elastic_agent.cli_arguments import COUNT, SEED
from elastic_agent.training.data.word_problems import DIFFICULTIES, make_problem

from .model import new_model, save_model
from .tokenizer import CLOSE, END, PAD, START, THINK, vocabulary
from .traces import render_trace, words

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SftConfig:
    """Everything that decides a run."""

    output: Path
    """Where the model folder is written."""
    seed: int = 0
    """Seeds the weights and the data."""
    steps: int = 1500
    """Optimizer steps: about 35 minutes on one core."""
    batch_tokens: int = 4096
    """Padded tokens in a batch."""
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: float = 0.02
    """Share of the run in which the rate rises."""
    decay: float = 0.45
    """Share of the run, at its end, in which the rate falls to zero."""
    easy: float = 0.12
    """Share of the run, at its start, with problems of 1 to 4 lines only: arithmetic comes sooner."""
    checkpoint_every: int = 200


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one conversation, and which of them the loss counts: those that the assistant says."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]


def make_example(rng: random.Random, *, easy: bool, vocab: dict[str, int]) -> Example:
    """One training conversation: sometimes a system turn or an earlier turn, then a problem and its trace."""
    problem = make_problem(rng, rng.randint(1, 4) if easy else rng.choice(DIFFICULTIES), split="train")
    trace = render_trace(problem, rng)
    turns: list[str] = []
    if rng.random() < 0.06:
        names = list(vocab)[len(vocab) // 4 :]
        turns += [START, "system", *rng.choices([*names, "<unk>"], k=rng.randint(2, 12)), END]
    if rng.random() < 0.04:
        before = make_problem(rng, rng.randint(1, 3), split="train")
        turns += [START, "user", *words(before.text), END, START, "assistant"]
        turns += [*words(f"Answer : {before.answer} ."), END]
    turns += [START, "user", *words(problem.text), END, START, "assistant", THINK]
    spoken = [*trace.thinking, CLOSE, *trace.solution, END]
    learnt = (*[False] * len(turns), *[True] * len(spoken))
    return Example(tuple(vocab[word] for word in (*turns, *spoken)), learnt)


class MakeExample(Protocol):
    """Draws one training conversation, an easy one at the start of a run."""

    def __call__(self, rng: random.Random, *, easy: bool, vocab: dict[str, int]) -> Example: ...


def batches(config: SftConfig, make: MakeExample = make_example) -> Iterator[list[Example]]:
    """Batches of like length, for ever: from pools of fresh examples, each in random order."""
    rng, vocab, step = random.Random(config.seed), vocabulary(), 0
    while True:
        easy = step < config.easy * config.steps
        pool = [make(rng, easy=easy, vocab=vocab) for _ in range(300)]
        pool.sort(key=lambda example: len(example.ids))
        groups: list[list[Example]] = []
        group: list[Example] = []
        for example in pool:
            if group and (len(group) + 1) * len(example.ids) > config.batch_tokens:
                groups.append(group)
                group = []
            group.append(example)
        if easy or not groups:
            groups.append(group)
        rng.shuffle(groups)
        yield from groups
        step += len(groups)


def collate(group: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids, and labels that are -100 on the prompt and the padding."""
    import torch

    width = max(len(example.ids) for example in group)
    ids = torch.full((len(group), width), pad)
    labels = torch.full((len(group), width), -100)
    for row, example in enumerate(group):
        full = torch.tensor(example.ids)
        ids[row, : len(full)] = full
        labels[row, : len(full)] = full.where(torch.tensor(example.learnt), -100)
    return ids, labels


def rate(progress: float, config: SftConfig) -> float:
    """The learning-rate factor at `progress` (0 to 1) of the run."""
    if progress < config.warmup:
        return max(progress / config.warmup, 0.02)
    return min(1.0, (1.0 - progress) / config.decay)


def optimizers(model: Any, config: SftConfig) -> list[Any]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    import torch

    from .muon import Muon

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=config.muon_lr),
        torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    config: SftConfig, *, model: Any = None, make: MakeExample = make_example, resume: bool = False
) -> Any:
    """Run stage (a) and save the model. Returns the trained model in float32.

    Args:
        model: what to start from; None: from nothing.
        make: draws the examples; None of the shipped model's own traces need be among them.
        resume: go on from the checkpoint in the output folder, if there is one.
    """
    import torch

    torch.manual_seed(config.seed)
    model = model or new_model()
    opts = optimizers(model, config)
    begun = step = tokens = 0
    checkpoint = config.output / "checkpoint.pt"
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        begun = step = state["step"]
    base_rates = [[g["lr"] for g in opt.param_groups] for opt in opts]
    pad = vocabulary()[PAD]
    data = islice(batches(config, make), step, None)
    model.train()
    config.output.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    started = time.perf_counter()
    while step < config.steps:
        ids, labels = collate(next(data), pad)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][wanted])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, rates in zip(opts, base_rates, strict=True):
            for param_group, base in zip(opt.param_groups, rates, strict=True):
                param_group["lr"] = base * rate(step / config.steps, config)
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        tokens += ids.numel()
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            mean, spent = sum(losses[-20:]) / 20, time.perf_counter() - started
            left = (config.steps - step) * spent / (step - begun)
            print(
                f"step {step} of {config.steps}, loss {mean:.4f}, {tokens / spent:.0f} tokens/s, "
                f"{left / 60:.0f} minutes left",
                flush=True,
            )
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"the loss is {losses[-1]} at step {step}; lower muon_lr or adam_lr")
        if config.checkpoint_every and step % config.checkpoint_every == 0:
            kept = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step}
            torch.save(kept, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    save_model(model, config.output)
    checkpoint.unlink(missing_ok=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=SEED, default=0, help="of the weights and the data (default: 0)")
    parser.add_argument(
        "--steps",
        type=COUNT,
        default=1500,
        help="optimizer steps (default: 1500, about 35 minutes on a core)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--threads", type=COUNT, default=1, help="torch threads (default: 1)")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    train(
        SftConfig(output=args.output, seed=args.seed, steps=args.steps),
        resume=args.resume,
    )


if __name__ == "__main__":
    main()
