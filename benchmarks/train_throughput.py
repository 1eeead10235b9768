"""How fast training goes: tokens sampled and learnt a second, by engine, with all weights and with LoRA.

    python benchmarks/train_throughput.py [--quick] [--json] [--model DIR] [--engine NAME,...] [--repeats N]

Runs the trainer itself (`elastic_agent.training.run.make_trainer`) for two batches of 32 rows with each
engine, on a model of at least 100M parameters with a vocabulary of real size. `--model` is the folder of such
a model, for example one that `transformers` has saved from SmolLM2-135M or Qwen2.5-0.5B. Without it the
script makes a random Qwen3 of 109M parameters with 151,936 words, behind e1-tiny's tokenizer, and the JSON
says `"made": true`: the speed is that of the architecture, the texts mean nothing.

With --json the last line of stdout is one JSON object, by engine: "transformers", "transformers-bfloat16" (a
copy in bfloat16 samples), the two with "-lora"; "vllm", "vllm-lora" where this Python has vLLM;
"vllm-server", "vllm-server-lora" where some Python has (`make vllm`):

    rollout_tokens_s  tokens sampled a second under budgets, prompts included; the median of the repeats
    update_tokens_s   tokens of prompts and samples learnt from a second: a step without its rollouts
    sync_s            seconds to give an engine with a copy the weights in training, a batch
    budget_overhead   seconds of the rollouts under budgets by seconds of plain ones, in one pass, of as many
                      tokens from the same prompts in the same engine, in turn; the median of the repeats
    spread            lowest and highest of rollout_tokens_s and budget_overhead
    new               tokens sampled a row

and, under "batch 32": `ours`, tokens a second of the in-process decoder at 32 rows of different prompts,
`generate`, those of transformers' `model.generate` on the same model and prompts, and `of_generate`, the
median of their ratios in turns, with its `spread`, in float32 and bfloat16. --quick measures the engine
"transformers" alone, with few and short rows and a model of 20M parameters: that everything works, not how
fast it is.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

if __package__:
    from ._train_model import ADAPTERS, ENVIRONMENT, REWARD, make_model, needs_markers
    from ._train_passes import beside_generate, passes_of, seconds, spread
else:
    from _train_model import ADAPTERS, ENVIRONMENT, REWARD, make_model, needs_markers
    from _train_passes import beside_generate, passes_of, seconds, spread

from elastic_agent.backends.vllm.process import VllmProcess, vllm_python

LORA: dict[str, Any] = {"lora": {"rank": 16}}
COPY: dict[str, Any] = {"rollout": {"dtype": "bfloat16"}}
VLLM: dict[str, Any] = {"rollout": {"engine": "vllm", "vllm": {"sleep": False}}}
ENGINES: dict[str, dict[str, Any]] = {
    "transformers": {},
    "transformers-bfloat16": COPY,
    "transformers-lora": LORA,
    "transformers-bfloat16-lora": COPY | LORA,
    "vllm": VLLM,
    "vllm-lora": VLLM | LORA,
    "vllm-server": {"rollout": {"engine": "vllm-server"}},
    "vllm-server-lora": {"rollout": {"engine": "vllm-server"}} | LORA,
}


@dataclass
class Seen:
    """What the batches of a run took."""

    batch: Any = None
    """The calls of the last batch."""
    rollouts: list[Any] = field(default_factory=list)
    """Their samples."""
    step_s: list[float] = field(default_factory=list)
    made_s: list[float] = field(default_factory=list)
    """Seconds of each step in which the batch was made: sync, rollouts, rewards."""

    def decode(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        def kept(trainer: Any, batch: Any) -> Any:
            self.batch, self.rollouts = batch, decode(trainer, batch)
            return self.rollouts

        return kept


def timed(into: list[float], call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, whose seconds are added to a list."""

    def call_timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            into.append(time.perf_counter() - began)

    return call_timed


def config_of(model: Path, output: Path, changes: dict[str, Any], options: argparse.Namespace) -> Any:
    from elastic_agent.config_files import merge
    from elastic_agent.training.config.loading import build

    every: dict[str, Any] = {
        "base": str(model),
        "output": str(output),
        "steps": 2,
        "budgets": {"thinking": [options.thinking], "solution": options.solution},
        "rollout": {"prompts": options.prompts, "group": options.group, "context": 512},
        "reward": {"kind": REWARD},
        "learning": {"warmup_steps": 0, "rate": 1e-6},
        "device": {"threads": os.cpu_count(), "microbatch": options.group},
        "checkpoint": {"every": 1000},
    }
    if needs_markers(model):
        every["markers"] = {"close": "</think>"}
    return build(merge(every, changes))


@contextmanager
def servers(name: str, model: Path) -> Iterator[dict[str, Any]]:
    """What to add to the config of an engine: the server that runs meanwhile, if the engine needs one."""
    if not name.startswith("vllm-server"):
        yield {}
        return
    adapters = name.endswith("-lora")
    options = ("--max-model-len=512", *(ADAPTERS if adapters else ()))
    with VllmProcess(str(model), options, reloads=not adapters, environment=ENVIRONMENT) as server:
        yield {"rollout": {"server": {"urls": [server.base_url]}}}


def run_engine(model: Path, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train two batches, of which the second is measured; then draw it again, in turn with plain ones."""
    from transformers import TrainerCallback

    from elastic_agent.training.grpo.logger import RunLogger
    from elastic_agent.training.grpo.validate import validate
    from elastic_agent.training.run import make_trainer

    class Steps(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.step_s.append(time.perf_counter() - self.began)

    seen = Seen()
    budgeted, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(model, Path(folder), changes, options)
        run = validate(config, lambda _: None)
        engine: Any = run.engine
        decode = engine.decode
        engine.decode = seen.decode(decode)
        trainer = make_trainer(config, run, RunLogger(config.output, 2, lambda _: None), [Steps()])
        make = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = timed(seen.made_s, make)
        trainer.train()
        engine.decode = decode
        logged = [log.get("rollout/sync_seconds", 0.0) for log in trainer.state.log_history]
        sync_s = max(logged, default=0.0)  # of servers, with the time that they take to load
        under, plain = passes_of(engine, trainer, seen.batch, seen.rollouts)
        for _ in range(options.repeats):
            budgeted.append(seconds(under))
            ratios.append(budgeted[-1] / seconds(plain))
        engine.close()
    sampled = sum(sum(r.env_mask) for r in seen.rollouts)
    learnt = sum(len(r.prompt_ids) + len(r.completion_ids) for r in seen.rollouts)
    speeds = [sampled / taken for taken in budgeted]
    return {
        "rollout_tokens_s": round(median(speeds), 2),
        "update_tokens_s": round(learnt / (seen.step_s[-1] - seen.made_s[-1]), 2),
        "sync_s": round(sync_s, 3),
        "budget_overhead": round(median(ratios), 3),
        "spread": {"rollout_tokens_s": spread(speeds, 2), "budget_overhead": spread(ratios, 3)},
        "new": round(sampled / len(seen.rollouts), 1),
    }


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one engine, few and short rows")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--model", type=Path, help="folder of a model of at least 100M parameters")
    parser.add_argument(
        "--engine",
        help=f"any of {', '.join(ENGINES)}; without it all that can run here, with --quick the first",
    )
    parser.add_argument("--repeats", type=int, help="of everything that is drawn (3; with --quick 1)")
    options = parser.parse_args(argv)
    names = ("prompts", "group", "thinking", "solution", "length", "new")
    values = (1, 4, 8, 4, 16, 4) if options.quick else (4, 8, 64, 32, 64, 64)
    vars(options).update(zip(names, values, strict=True))
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def able(name: str) -> bool:
    """Whether the engine can run here."""
    needed = vllm_python() if name.startswith("vllm-server") else find_spec("vllm")
    return needed is not None or not name.startswith("vllm")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    import torch
    from transformers.utils import logging

    from elastic_agent.config_files import merge

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = options_of(argv)
    torch.set_num_threads(os.cpu_count() or 1)
    here = [name for name in ENGINES if able(name)]
    chosen = options.engine.split(",") if options.engine else here[:1] if options.quick else here
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        sizes = {"hidden": 128, "layers": 2} if options.quick else {}
        folder = options.model or make_model(Path(made), **sizes)
        for name in chosen:
            with servers(name, folder) as server:
                result[name] = run_engine(folder, merge(ENGINES[name], server), options)
            print(f"{name}: {result[name]}", flush=True)
        result["batch 32"] = beside_generate(folder, options.length, options.new, options.repeats)
        print(f"batch 32: {result['batch 32']}", flush=True)
    result |= {"made": options.model is None, "threads": os.cpu_count()}
    if options.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
