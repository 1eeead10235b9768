"""How fast training goes: tokens sampled and learnt a second, by engine, with all weights and with LoRA.

    python benchmarks/train_throughput.py [--quick] [--json] [--model DIR] [--engine NAME,...]

Runs the trainer itself (`elastic_agent.training.run.make_trainer`) for two batches with each engine, on a
model of at least 100M parameters with a vocabulary of real size. `--model` is the folder of such a model, for
example one that `transformers` has saved from SmolLM2-135M or Qwen2.5-0.5B. Without it the script makes a
random Qwen3 of 109M parameters with 151,936 words, behind e1-tiny's tokenizer, and the JSON says `"made":
true`: the speed is that of the architecture, the texts mean nothing.

With --json the last line of stdout is one JSON object, by engine ("transformers", "transformers-bfloat16": a
copy in bfloat16 samples, "transformers-lora", and "vllm", "vllm-lora" where this Python has vLLM):

    rollout_tokens_s  tokens sampled a second, budgets and prompts included
    update_tokens_s   tokens of prompts and samples learnt from a second: a step without its rollouts
    sync_s            seconds to give an engine with a copy the weights in training, a batch
    budget_overhead   seconds of the rollouts under budgets by seconds of plain ones, in one pass, of as many
                      tokens from the same prompts in the same engine

and, under "batch 32": `ours`, tokens a second of the in-process decoder at 32 rows of different prompts,
`generate`, those of transformers' `model.generate` on the same model and prompts, and `of_generate`, their
ratio, in float32 and bfloat16. --quick measures the engine "transformers" alone, with few and short rows:
that everything works, not how fast it is.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from elastic_agent.backends.base import Sampling, TokenRequest
from elastic_agent.training.rollouts.rollout import Rollout

WORDS = 151_936
ENGINES: dict[str, dict[str, Any]] = {
    "transformers": {},
    "transformers-bfloat16": {"rollout": {"dtype": "bfloat16"}},
    "transformers-lora": {"lora": {"rank": 16}},
    "vllm": {"rollout": {"engine": "vllm"}},
    "vllm-lora": {"rollout": {"engine": "vllm"}, "lora": {"rank": 16}},
}
PLAIN = Sampling(1.0, 1.0)


def reward(**columns: Any) -> list[float]:
    """Some ids are better, so that every group has an advantage and every row is learnt from."""
    return [sum(i % 7 for i in ids) / (7 * max(1, len(ids))) for ids in columns["solution_ids"]]


def make_model(folder: Path) -> Path:
    """A random Qwen3 of 109M parameters and 151,936 words, with the tokenizer of e1-tiny."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from elastic_agent.model_location import model_path

    torch.manual_seed(0)
    tiny = model_path("e1-tiny-base")
    config = AutoConfig.from_pretrained(tiny)
    sizes = {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
    for name, value in {**sizes, "num_hidden_layers": 8, "head_dim": 64, "vocab_size": WORDS}.items():
        setattr(config, name, value)
    config.layer_types = ["full_attention"] * 8
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


@dataclass
class Batches:
    """What the batches of a run took."""

    calls: tuple[Any, ...] = ()
    """Arguments of the engine for the last batch."""
    rollouts: list[Rollout] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    sync_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    made_s: list[float] = field(default_factory=list)
    """Seconds of each step in which the batch was made: sync, rollouts, rewards."""
    learnt: list[int] = field(default_factory=list)

    def decode(self, decode: Callable[..., list[Rollout]]) -> Callable[..., list[Rollout]]:
        def timed(*arguments: Any) -> list[Rollout]:
            began = time.perf_counter()
            self.rollouts = decode(*arguments)
            self.decode_s.append(time.perf_counter() - began)
            self.calls = arguments
            self.sampled.append(sum(sum(r.env_mask) for r in self.rollouts))
            self.learnt.append(sum(len(r.prompt_ids) + len(r.completion_ids) for r in self.rollouts))
            return self.rollouts

        return timed

    @staticmethod
    def timed(seconds: list[float], call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                seconds.append(time.perf_counter() - began)

        return timed


def config_of(model: Path, output: Path, changes: dict[str, Any], options: argparse.Namespace) -> Any:
    from elastic_agent.training.config.loading import build, merge

    every: dict[str, Any] = {
        "base": str(model),
        "output": str(output),
        "steps": 2,
        "budgets": {"thinking": [options.thinking], "solution": options.solution},
        "rollout": {"prompts": options.prompts, "group": options.group, "context": 512},
        "reward": {"kind": "train_throughput:reward"},
        "learning": {"warmup_steps": 0, "rate": 1e-6},
        "device": {"threads": os.cpu_count(), "microbatch": options.group},
        "checkpoint": {"every": 1000},
    }
    if options.model is not None:
        every["markers"] = {"close": "</think>"}
    return build(merge(every, changes))


def run_engine(model: Path, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Train two batches; the second is measured, then its rollouts are drawn again beside plain ones."""
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

    seen = Batches()
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(model, Path(folder), changes, options)
        run = validate(config, lambda _: None)
        engine: Any = run.engine
        decode = engine.decode
        engine.decode = seen.decode(decode)
        engine.sync_weights = seen.timed(seen.sync_s, engine.sync_weights)
        trainer = make_trainer(config, run, RunLogger(config.output, 2, lambda _: None), [Steps()])
        make = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = seen.timed(seen.made_s, make)
        trainer.train()
        ratios = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            decode(*seen.calls)
            budgeted = time.perf_counter() - began
            ratios.append(budgeted / plain_seconds(engine, trainer, seen.rollouts))
        engine.close()
    return {
        "rollout_tokens_s": round(seen.sampled[-1] / seen.decode_s[-1], 2),
        "update_tokens_s": round(seen.learnt[-1] / (seen.step_s[-1] - seen.made_s[-1]), 2),
        "sync_s": round(seen.sync_s[-1], 3) if seen.sync_s else 0.0,
        "budget_overhead": round(median(ratios), 3),
    }


def plain_seconds(engine: Any, trainer: Any, rollouts: Sequence[Rollout]) -> float:
    """Seconds for as many tokens from the same prompts, each row in one pass."""
    from elastic_agent.backends.transformers.decode import BatchDecoder
    from elastic_agent.training.rollouts.engines.engine import whole_model

    if getattr(engine, "_llm", None) is not None:
        from elastic_agent.training.rollouts.engines.colocated.decoder import VllmDecoder

        decoder: Any = VllmDecoder(engine._llm)
    else:
        copy = engine._copy
        model = (whole_model(trainer) if copy is None else copy).eval()
        decoder = BatchDecoder(model, max_rows=len(rollouts), tempered=copy is not None)
    copied = getattr(engine, "_copy", None) is not None
    began = time.perf_counter()
    for i, row in enumerate(rollouts):
        sampling = Sampling(1.0, 1.0, seed=i, logprobs=copied)
        decoder.add(TokenRequest(row.prompt_ids, sum(row.env_mask), frozenset(), sampling))
    left = len(rollouts)
    while left:
        left -= sum(one.finish is not None for one in decoder.step())
    return time.perf_counter() - began


def beside_generate(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Tokens a second of the decoder and of `model.generate`, 32 rows, by precision; the median of turns."""
    import torch

    from elastic_agent.backends.transformers.decode import BatchDecoder
    from elastic_agent.training.grpo.export import load_model

    found: dict[str, dict[str, float]] = {}
    rows, new = 32, options.new
    ids = torch.randint(10, 400, (rows, options.length), generator=torch.Generator().manual_seed(0))
    for dtype in ("float32", "bfloat16"):
        model = load_model(folder, dtype=getattr(torch, dtype))

        def ours(model: Any = model) -> None:
            decoder = BatchDecoder(model, max_rows=rows)
            for row in ids.tolist():
                decoder.add(TokenRequest(tuple(row), new, frozenset(), PLAIN))
            while len(decoder):
                decoder.step()

        def theirs(model: Any = model) -> None:
            drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
            lengths = {"max_new_tokens": new, "min_new_tokens": new}
            model.generate(ids, attention_mask=torch.ones_like(ids), **drawn, **lengths)

        seconds: dict[str, list[float]] = {"ours": [], "generate": []}
        with torch.inference_mode():
            for _ in range(options.repeats):
                Batches.timed(seconds["ours"], ours)()
                Batches.timed(seconds["generate"], theirs)()
        ratio = median(g / o for o, g in zip(seconds["ours"], seconds["generate"], strict=True))
        speeds = {name: round(rows * new / median(taken), 2) for name, taken in seconds.items()}
        found[dtype] = {**speeds, "of_generate": round(ratio, 3)}
    return found


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
    options = parser.parse_args(argv)
    names = ("prompts", "group", "thinking", "solution", "length", "new", "repeats")
    values = (1, 4, 8, 4, 16, 4, 1) if options.quick else (4, 8, 96, 32, 64, 64, 3)
    vars(options).update(zip(names, values, strict=True))
    return options


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = options_of(argv)
    torch.set_num_threads(os.cpu_count() or 1)
    able = [name for name in ENGINES if not name.startswith("vllm") or find_spec("vllm") is not None]
    chosen = options.engine.split(",") if options.engine else able[:1] if options.quick else able
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = options.model or make_model(Path(made))
        for name in chosen:
            result[name] = run_engine(folder, ENGINES[name], options)
            print(f"{name}: {result[name]}", flush=True)
        result["batch 32"] = beside_generate(folder, options)
        print(f"batch 32: {result['batch 32']}", flush=True)
    result |= {"made": options.model is None, "threads": os.cpu_count()}
    if options.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
