"""Train an agent end to end: it looks up the lines of a problem, call by call, under a cap.

    python examples/train_agent.py [--quick] [--seed N] [--teach N] [--steps N] [--output DIR]

1. A supervised stage teaches e1-tiny-base to look lines up. It thinks far more than it needs to.
2. GRPO on whole episodes: each group draws a cap in tokens, and the scheduler grants each call its part.
3. Both are measured on held-out problems by `elastic-agent eval --agent`, at a few caps.

Run from a clone: the supervised stage is `tools/e1_tiny/sft.py`, which is not in the wheel. --quick runs
every stage in small, and teaches nothing. What a whole run gave is in docs/lab-notes.md.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from elastic_agent.model_location import model_path
from elastic_agent.training.config.loading import load_config
from elastic_agent.training.data.lookups import STEPS, make_lookup_rows
from elastic_agent.training.data.word_problems import make_problem
from elastic_agent.training.evaluation.cli import main as evaluate
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.run import train
from tools.e1_tiny import sft
from tools.e1_tiny.agent_traces import demonstrate

CAPS = (50, 80, 120, 180)


def example(rng: random.Random, *, easy: bool, vocab: dict[str, int]) -> sft.Example:
    """A demonstrated call for the supervised stage."""
    steps = rng.choice(STEPS[:1] if easy else STEPS)
    words, learnt = demonstrate(make_problem(rng, steps, split="train"), rng)
    return sft.Example(tuple(vocab[word] for word in words), tuple(learnt))


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
    before, after = output / "taught", output / "trained"
    print("1. supervised: how to look lines up", flush=True)
    stage = sft.SftConfig(before, seed=seed, steps=teach, batch_tokens=2560, muon_lr=0.01, adam_lr=1.5e-3)
    sft.train(stage, model=load_model(model_path("e1-tiny-base")), make=example)

    print("2. GRPO under caps", flush=True)
    changes = (f"base={before}", f"output={after}", f"seed={seed}", f"steps={steps}")
    small = ("rollout.prompts=2", "rollout.group=4") if quick else ("rollout.prompts=16",)
    settings = ("agent.llm={solution_budget: 32}", "learning.rate=2e-4", "rollout.context=768")
    train(load_config("agent", (*changes, *small, *settings)))

    print("3. held-out problems", flush=True)
    rows = make_lookup_rows(seed, 6 if quick else 120, split="test")
    (output / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    caps = f"tokens={','.join(map(str, CAPS))}"
    for folder in (before, after):
        print(folder.name, flush=True)
        given = ("--agent", "lookups", "--data", str(output / "test.jsonl"), "--caps", caps)
        where = ("--output", str(output / f"eval-{folder.name}"))
        evaluate(["--model", str(folder), *given, *where, "--set", "llm={solution_budget: 32}"])


if __name__ == "__main__":
    main()
