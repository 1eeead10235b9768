"""How near `elastic-agent train --estimate` is to the memory that a training step really takes.

    python benchmarks/train_memory.py [--quick] [--json] [--model DIR] [--setting NAME,...]

Trains two batches in a process of its own for each setting, on a model of at least 100M parameters with a
vocabulary of real size (`--model`, or the random Qwen3 of `_train_model.py`), and reads the peak of the
second batch from the kernel (VmHWM of /proc/self/status, set back through /proc/self/clear_refs), less what
Python, torch and TRL take before the model is loaded. Rows are as long as `rollout.context`: thinking has no
limit, and a random model does not end. Linux alone; other programs on the machine change nothing.

With --json the last line of stdout is one JSON object, by setting:

    sampling, learning  measured peaks, GiB; sampling where a decoder ran (`DECODED`)
    estimated           {"sampling", "learning"}: what --estimate says
    error               of the larger of the two peaks: estimated / measured - 1
    estimate_s          seconds of the estimate

and "worst", the largest |error|. --quick measures one setting of a small model with short rows.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from _train_model import REWARD, make_model

from elastic_agent.backends.base import TokenRequest
from elastic_agent.backends.decoder import Sampled

SETTINGS: dict[str, dict[str, Any]] = {
    "full-128": {"rollout": {"context": 128}},
    "full-256": {"rollout": {"context": 256}},
    "full-768": {"rollout": {"context": 768}},
    "full-768-checkpointing": {
        "rollout": {"context": 768},
        "device": {"gradient_checkpointing": True},
    },
    "full-768-microbatch-1": {"rollout": {"context": 768}, "device": {"microbatch": 1}},
    "full-768-kl": {"rollout": {"context": 768}, "learning": {"kl": 0.01}},
    "lora-256": {"rollout": {"context": 256}, "lora": {"rank": 16}},
    "lora-768": {"rollout": {"context": 768}, "lora": {"rank": 16}},
    "lora-768-checkpointing": {
        "rollout": {"context": 768},
        "lora": {"rank": 16},
        "device": {"gradient_checkpointing": True},
    },
    "full-1536-checkpointing": {
        "rollout": {"context": 1536},
        "device": {"gradient_checkpointing": True, "bucket_tokens": 1536},
    },
    "bfloat16-768": {"rollout": {"context": 768}, "device": {"precision": "bfloat16"}},
}
QUICK = "full-128"
DECODED = ("full-128", "full-256")
"""Settings whose rollouts are decoded. The others, with longer rows, get random ids in place of a decoder's,
and their sampling is not measured."""
FIRST = 112
"""Tokens of the rows of the first batch."""
GIB = 1024**3


@dataclass
class RandomDecoder:
    """Draws each token at once, without a model."""

    left: dict[int, int] = field(default_factory=dict)
    """Tokens to draw, by request."""

    def add(self, request: TokenRequest) -> int:
        self.left[key := len(self.left)] = request.max_tokens
        return key

    def cancel(self, key: int) -> None:
        self.left[key] = 0

    def step(self) -> list[Sampled]:
        drawn = []
        for key, left in self.left.items():
            if left:
                self.left[key] = left - 1
                drawn.append(Sampled(key, random.randrange(10, 400), -1.0, "length" if left == 1 else None))
        return drawn


def config_of(name: str, model: Path, output: Path, *, made: bool) -> Any:
    from elastic_agent.config_files import merge
    from elastic_agent.training.config.loading import build

    every: dict[str, Any] = {
        "base": str(model),
        "output": str(output),
        "steps": 2,
        "budgets": {"thinking": [None], "solution": 8},
        "rollout": {"prompts": 1, "group": 2},
        "reward": {"kind": REWARD},
        "learning": {"warmup_steps": 0, "rate": 1e-6},
        "device": {"threads": 1},
        "checkpoint": {"every": 1000},
        "markers": None if made else {"close": "</think>"},
    }
    return build(merge(every, SETTINGS[name]))


def status(key: str) -> float:
    """A size of this process, in GiB."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":")
    )
    return int(line.split()[1]) / 1024**2


def measure(name: str, model: Path, *, made: bool) -> dict[str, Any]:
    """Train two batches; the peaks of the second."""
    import torch
    from transformers import TrainerCallback

    from elastic_agent.training.grpo.logger import RunLogger
    from elastic_agent.training.grpo.validate import validate
    from elastic_agent.training.rollouts.engines.in_process import roll_out
    from elastic_agent.training.run import make_trainer

    peaks: dict[str, float] = {}
    rows: list[int] = []

    def read(name: str) -> None:
        """Note the peak since the last reading."""
        peaks[name] = status("VmHWM") - before
        Path("/proc/self/clear_refs").write_text("5")

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            read("learning")

    import_module("elastic_agent.training.grpo.trainer")  # TRL, before anything is measured
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(name, model, Path(folder), made=made)
        run = validate(config, lambda _: None)
        before = status("VmRSS")
        engine: Any = run.engine
        decode = engine.decode

        def decoded(*arguments: Any) -> Any:
            trainer, batch = arguments
            if not rows:  # the first batch only has to bring the optimizer's state
                batch = replace(batch, context=FIRST)
            Path("/proc/self/clear_refs").write_text("5")
            if name in DECODED:
                done = decode(trainer, batch)
                read("sampling")
            else:
                done = roll_out(RandomDecoder(), batch)
            rows.extend(len(r.prompt_ids) + len(r.completion_ids) for r in done)
            return done

        engine.decode = decoded
        make_trainer(config, run, RunLogger(config.output, 2, lambda _: None), [Steps()]).train()
    return {name: round(size, 3) for name, size in peaks.items()} | {"longest_row": max(rows)}


def beside(name: str, model: Path, *, made: bool) -> dict[str, Any]:
    """One setting: measured in a process of its own, and estimated in this one."""
    from elastic_agent.training.estimate.estimate import estimate

    command = [sys.executable, __file__, "--measure", name, "--model", str(model)]
    done = subprocess.run(
        [*command, *(["--made"] if made else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    measured = json.loads(done.stdout.splitlines()[-1])
    began = time.perf_counter()
    found = estimate(config_of(name, model, model / "out", made=made), 1, None)
    largest = max(measured.get("sampling", 0), measured["learning"])
    return {
        **measured,
        "estimated": {
            "sampling": round(found.samples / GIB, 3),
            "learning": round(found.learns / GIB, 3),
        },
        "error": round((found.total if "sampling" in measured else found.learns) / GIB / largest - 1, 3),
        "estimate_s": round(time.perf_counter() - began, 1),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one setting, short rows")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--model", type=Path, help="folder of a model of at least 100M parameters")
    parser.add_argument("--setting", help=f"any of {', '.join(SETTINGS)}; without it all")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--made", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if options.measure:
        print(json.dumps(measure(options.measure, options.model, made=options.made)))
        return {}
    names = options.setting.split(",") if options.setting else [QUICK] if options.quick else list(SETTINGS)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        small = {"hidden": 128, "layers": 2} if options.quick else {}
        model = options.model or make_model(Path(folder), **small)
        for name in names:
            result[name] = beside(name, model, made=options.model is None)
            print(f"{name}: {result[name]}", flush=True)
    result["worst"] = max(abs(result[name]["error"]) for name in names)
    if options.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
