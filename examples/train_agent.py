"""Train an agent end to end: it looks up the lines of a problem with a tool, turn by turn, under a cap.

    python examples/train_agent.py [--quick] [--seed N] [--teach N] [--steps N] [--output DIR]

1. A supervised stage teaches e1-tiny-base to call the tool. It thinks far more than it needs to.
2. GRPO on whole episodes: each group draws a cap in tokens, every turn gets what the scheduler grants it.
3. Both are measured on held-out problems, under the scheduler's grants, at a few caps.

Run from a clone: the supervised stage is `tools/e1_tiny/sft.py`, which is not in the wheel.
About four minutes of one core's time; --quick runs every stage in seconds, and teaches nothing.
--teach and --steps make the two stages longer. What it gave is in docs/lab-notes.md.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers.utils import logging

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.model_location import model_path
from elastic_agent.prompts.tokenizer import HFCodec
from elastic_agent.scheduler.runtime.offline_task import OfflineTask
from elastic_agent.training.agents.episode_runner import EpisodeLimits, EpisodeRunner, run_episodes
from elastic_agent.training.agents.lookup_environment import lookup_environment
from elastic_agent.training.agents.turn_renderer import TurnRenderer
from elastic_agent.training.budgets.distributions import call_seeds
from elastic_agent.training.config.loading import build
from elastic_agent.training.data.lookups import STEPS, make_lookup_rows
from elastic_agent.training.data.word_problems import make_problem
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.rewards.word_problems import solution_reward
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.in_process import roll_out
from elastic_agent.training.rollouts.rollout import Call, Rollout
from elastic_agent.training.run import train
from tools.e1_tiny import sft
from tools.e1_tiny.agent_traces import demonstrate
from tools.e1_tiny.tokenizer import build_tokenizer

CAPS = (50, 80, 120, 180)
LIMITS = EpisodeLimits(turns=6, context=768)
ASKED = Budget(None, 32)


def example(rng: random.Random, *, easy: bool, vocab: dict[str, int]) -> sft.Example:
    """A demonstrated episode for the supervised stage."""
    steps = rng.choice(STEPS[:1] if easy else STEPS)
    words, learnt = demonstrate(make_problem(rng, steps, split="train"), rng)
    return sft.Example(tuple(vocab[word] for word in words), tuple(learnt))


def measure(folder: Path, rows: Sequence[dict[str, Any]], cap: int, seed: int) -> tuple[float, float, float]:
    """(accuracy, share that answered, tokens an episode) of a model under one cap."""
    renderer = TurnRenderer(HFCodec(build_tokenizer()))
    codec = renderer.codec
    runners = [
        EpisodeRunner(
            lookup_environment(row),
            codec.encode_chat(row["prompt"]),
            renderer,
            LIMITS,
            OfflineTask(cap, close=renderer.close),
        )
        for row in rows
    ]
    decoder = BatchDecoder(load_model(folder), max_rows=128)

    def decode(calls: Sequence[Call], turn: int) -> list[Rollout]:
        draws = call_seeds(seed, turn, calls=range(len(calls)))
        return roll_out(decoder, Batch(calls, codec.markers, LIMITS.context, Sampling(), draws))

    done = run_episodes(runners, lambda _: [ASKED] * len(rows), decode)
    assert all(p.rollout.usage.generated <= cap for p in done), "an episode spent more than its cap"
    right = [
        solution_reward(codec.decode(p.rollout.solution_text_ids), p.rollout.finished, row["answer"])
        for p, row in zip(done, rows, strict=True)
    ]
    return (
        fmean(right),
        fmean(p.rollout.finished for p in done),
        fmean(p.rollout.usage.generated for p in done),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every stage in small, in under a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teach", type=int, default=100, help="supervised steps (default: 100)")
    parser.add_argument("--steps", type=int, default=14, help="GRPO steps (default: 14)")
    parser.add_argument("--output", type=Path, help="where models go (default: a folder that is removed)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        teach, steps = (3, 2) if args.quick else (args.teach, args.steps)
        run(args.output or Path(scratch), args.seed, teach, steps, quick=args.quick)


def run(output: Path, seed: int, teach: int, steps: int, *, quick: bool) -> None:
    begun = time.perf_counter()
    before, after = output / "taught", output / "trained"
    print("1. supervised: how to call the tool", flush=True)
    stage = sft.SftConfig(before, seed=seed, steps=teach, batch_tokens=2560, muon_lr=0.01, adam_lr=1.5e-3)
    sft.train(stage, model=load_model(model_path("e1-tiny-base")), make=example)

    print(f"2. GRPO under caps, after {time.perf_counter() - begun:.0f} s", flush=True)
    config = {
        "base": str(before),
        "output": str(after),
        "seed": seed,
        "steps": steps,
        "data": {"source": "lookups"},
        "agent": {"environment": "lookups", "turns": LIMITS.turns, "tokens": [CAPS[0], CAPS[-1]]},
        "budgets": {"thinking": None, "solution": ASKED.solution},
        "rollout": {"prompts": 2 if quick else 16, "group": 4 if quick else 8, "context": LIMITS.context},
        "learning": {"rate": 2e-4, "warmup_steps": 2},
    }
    train(build(config))

    print(f"3. held-out problems, after {time.perf_counter() - begun:.0f} s", flush=True)
    rows = make_lookup_rows(seed, 6 if quick else 120, split="test")
    print("cap     before: right  answered  tokens     after: right  answered  tokens")
    for cap in CAPS:
        line = [f"{cap:4}"]
        for folder in (before, after):
            right, answered, tokens = measure(folder, rows, cap, seed)
            line.append(f"{right:17.2f} {answered:9.2f} {tokens:7.0f}")
        print("  ".join(line), flush=True)
    print(f"{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
