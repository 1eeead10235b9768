"""Run a recipe: worked solutions, cold start, training under budgets; from a pretrained model to an E1.

    elastic-agent train --recipe e1-gym-135m --base ./SmolLM2-135M-Instruct --output ./smol

OUTPUT holds, in the order in which they are made:

    traces.jsonl   worked solutions of the recipe's families
    thinks/        the base after the cold start (`elastic-agent prepare`): it thinks, but not within budgets
    e1/            the E1, a complete model, with metrics and checkpoints (`elastic-agent train`)
    adapter/       what the E1 has learnt, as a LoRA adapter of the base: an approximation, to be measured

Models that are there are not made again, so the same line with --resume goes on where a run was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elastic_agent.config_files import Tree, merge
from elastic_agent.errors import ConfigError, UsageError

from ..config.loading import build, override
from ..config.schema import TrainConfig
from ..data.gym import GYM, check_families, family_text, gym_problems
from ..prepare.cli import default_dtype
from ..prepare.settings import Settings, digest_of
from .extracted_adapter import extract_adapter
from .recipe import Recipe, read_recipe
from .worked import check_worked, trace_of

Log = Callable[[str], None]
TRACES, THINKS, TRAINED, ADAPTER = "traces.jsonl", "thinks", "e1", "adapter"
_OTHERS = ("config", "agent", "data", "caps", "thinking", "learning_rate", "estimate", "open", "close")


def main(args: argparse.Namespace) -> None:
    """Run `elastic-agent train --recipe`.

    Raises:
        UsageError: options that a recipe decides itself.
        ConfigError, DataError: before anything is computed.
    """
    if given := [name for name in _OTHERS if getattr(args, name, None)]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} does not go with --recipe: --set changes its training"
        )
    recipe = read_recipe(args.recipe)
    if args.output is None:
        raise UsageError("--recipe writes several folders: name one for them with --output DIR")
    changes: Tree = {
        name: getattr(args, name) for name in ("seed", "steps") if getattr(args, name) is not None
    }
    if args.threads is not None:
        changes["device"] = {"threads": args.threads}
    tree = override(merge(recipe.train, changes), args.set)
    recipe = recipe.model_copy(update={"train": tree, "folder": args.base})
    config = check(recipe, Path(args.output))
    if args.check:
        print("# nothing is wrong with it")
        return
    import torch

    torch.set_num_threads(config.device.threads)
    run(recipe, Path(args.output), resume=args.resume)


def check(recipe: Recipe, output: Path) -> TrainConfig:
    """Check everything that a recipe names, before anything is computed; returns its training.

    Raises:
        ConfigError, DataError: a fault.
    """
    check_families(recipe.families)
    check_worked(list(recipe.families))
    return train_config(recipe, output)


def train_config(recipe: Recipe, output: Path) -> TrainConfig:
    """The training of a recipe: from the cold-started model, on its families, graded by their scorers."""
    own = {
        "base": str(output / THINKS),
        "output": str(output / TRAINED),
        "data": {"source": GYM, "gym": recipe.families, "instruction": ""},
        "reward": {"kind": GYM},
    }
    return build({**recipe.train, **own})


def run(recipe: Recipe, output: Path, *, resume: bool = False, log: Log = print) -> None:
    """Run a recipe, or what is missing of it.

    Raises:
        ConfigError: OUTPUT holds a run already, and `resume` is false.
        And what `prepare` and `train` raise.
    """
    from ..prepare.run import prepare
    from ..run import train

    if not resume and output.is_dir() and any(output.iterdir()):
        raise ConfigError(
            f"--output {output} holds something already: --resume goes on, or name another folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    traces = write_traces(recipe, output / TRACES)
    log(f"{TRACES}: {recipe.traces.each} worked solutions of each of {', '.join(recipe.families)}")
    config = train_config(recipe, output)
    start = recipe.prepare
    settings = Settings(
        base=recipe.start,
        output=output / THINKS,
        traces=traces,
        digest=digest_of(traces),
        steps=start.steps,
        batch=start.batch,
        microbatch=start.microbatch,
        rate=start.rate,
        lora=start.lora,
        dtype=start.dtype or default_dtype(),
        context=config.rollout.context,
        seed=config.seed,
    )
    prepare(settings, resume=resume, log=log)
    if not (output / TRAINED / "train_log.json").is_file():
        train(config, resume=resume, log=log)
    if recipe.adapter is not None and not (output / ADAPTER).is_dir():
        extract_adapter(
            recipe.start, output / TRAINED, output / ADAPTER, recipe.adapter, name=recipe.base, log=log
        )
    log(f"next: {evaluation_of(recipe, output)}")


def write_traces(recipe: Recipe, path: Path) -> Path:
    """Write the worked solutions of a recipe, in an order drawn by its seed; the same each time."""
    problems = gym_problems(recipe.families, recipe.traces.each, split="train", seed=recipe.traces.seed)
    rows: list[dict[str, Any]] = [trace_of(problem) for problem in problems]
    random.Random(recipe.traces.seed).shuffle(rows)
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def evaluation_of(recipe: Recipe, output: Path) -> str:
    """The command that measures the E1 beside the model that it was trained from, on unseen problems."""
    families = " ".join(f"--family {shlex.quote(family_text(*one))}" for one in recipe.families.items())
    return (
        f"elastic-agent eval --model {shlex.quote(str(output / THINKS))} "
        f"--model {shlex.quote(str(output / TRAINED))} --data gym {families} --instruction '' "
        f"--thinking 0,16,32,64,128,none --solution 32"
    )
