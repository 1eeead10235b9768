"""What `rollout.ahead: 1` brings: seconds a step with the next batch sampled beside the update, and without.

    python benchmarks/train_ahead.py [--quick] [--json] [--steps N] [--repeats N] [--rate R] [--base-url URL]

Trains e1-tiny-base with LoRA on word problems, through a vLLM server (`make vllm`; --base-url: one that runs,
started with `--enable-lora --max-lora-rank 16` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True), once with
`rollout.ahead` 0 and once with 1, in turn, --repeats times with a seed each. Server and trainer share this
machine: with few cores little can be gained. --quick takes a scripted server in place of vLLM: a random model
that waits `latency_s` before each pass, as if it sat on another machine, so the overlap can be seen.

With --json the last line of stdout is one JSON object: `server`, `latency_s`, `steps`, and by `rollout.ahead`
("0", "1"):

    step_s     seconds of a step, the median of all but the first and the last of each run
    waited_s   of it, waiting for rollouts; `beside_s`: sampling that ran beside the update before
    update_s   of it, log-probs, gradients, the optimizer
    reward     mean of the last quarter of the steps; `accuracy`: of problems held out, after the last step
    ratio      mean importance-sampling ratio, from the third step on; `gap`: mean difference in nats a token
    runs       `step_s` and `accuracy` of each run

and `of_plain`: step_s of "1" by that of "0"; `possible`: the same if the longer of rollouts and update hid
the shorter one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

from _train_model import ADAPTERS, ENVIRONMENT, REWARD

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LATENCY = 0.25  # seconds before each pass of the scripted server
OPTIONS = ("--max-model-len=512", *ADAPTERS)
VALIDATED = 64  # thinking tokens of the problems held out
LOG = Path("/tmp/elastic-vllm-ahead.log")


@contextmanager
def scripted(folder: Path) -> Iterator[tuple[str, str]]:
    """(model, URL): a random model behind a server that waits `LATENCY` before each pass."""
    import torch
    from aiohttp import web

    from elastic_agent.backends.transformers.backend import TransformersBackend
    from elastic_agent.backends.transformers.decode import BatchDecoder
    from tests.training.runs import make_base
    from tests.wire import Wire, serve_in_thread

    class Slow(Wire):
        async def _completions(self, http: web.Request) -> web.StreamResponse:
            await asyncio.sleep(LATENCY)
            return await super()._completions(http)

    base = make_base(folder)
    backend = TransformersBackend.load(str(base), name=str(base))
    backend._decoder = BatchDecoder(backend.module, generator=torch.Generator())
    with serve_in_thread(backend, make=Slow, adapters={}) as wire:
        yield str(base), wire.base_url
    asyncio.run(backend.aclose())


@contextmanager
def vllm(base_url: str | None) -> Iterator[tuple[str, str]]:
    """(model, URL) of a vLLM server, started here unless one runs."""
    from _vllm import needs_vllm

    from elastic_agent.backends.vllm.process import VllmProcess

    if base_url:
        yield "e1-tiny-base", base_url
        return
    needs_vllm()
    with VllmProcess("e1-tiny-base", OPTIONS, log=LOG, environment=ENVIRONMENT | ONE_THREAD) as server:
        yield "e1-tiny-base", server.base_url


def config_of(base: str, url: str, output: Path, ahead: int, seed: int, options: argparse.Namespace) -> Any:
    from elastic_agent.config_files import merge
    from elastic_agent.training.config.loading import build

    server = {"urls": [url], "concurrency": 64}
    quick: dict[str, Any] = {
        "rollout": {"prompts": 4, "group": 4},
        "validation": {"problems": 4},
        "device": {"microbatch": 4},
        "budgets": {"thinking": [4, 8], "solution": 6},
        "reward": {"kind": REWARD},
        "learning": {"rate": 1e-4},  # the scripted server samples without adapters
    }
    every: dict[str, Any] = {
        "base": base,
        "output": str(output),
        "seed": seed,
        "steps": options.steps,
        "budgets": {"thinking": [32, 64, 96], "solution": 48},
        "rollout": {"prompts": 4, "group": 8, "context": 256, "engine": "vllm-server", "server": server},
        "learning": {"warmup_steps": 0, "rate": options.rate},
        "lora": {"rank": 16},
        "device": {"microbatch": 8},
        "checkpoint": {"every": 1000},
        "validation": {"every": options.steps, "budgets": [VALIDATED], "problems": 200, "samples": 1},
    }
    every["rollout"]["ahead"] = ahead
    return build(merge(every, quick if options.quick else {}))


def run(config: Any) -> list[dict[str, float]]:
    """The rows of the log of one run, each with the seconds of its step."""
    from transformers import TrainerCallback

    from elastic_agent.training.run import train

    ended = [time.perf_counter()]

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    trainer = train(config, callbacks=[Steps()], log=lambda _: None)
    rows = [row for row in trainer.state.log_history if "seconds/update" in row]
    return [
        {**row, "step_s": ended[i + 1] - ended[i] - row["seconds/validation"]} for i, row in enumerate(rows)
    ]


def summed_up(runs: Sequence[list[dict[str, float]]]) -> dict[str, Any]:
    """The numbers of all runs of one kind."""
    inner = [row for rows in runs for row in rows[1:-1]]
    late = [row for rows in runs for row in rows[2:]]
    last = [row for rows in runs for row in rows[-max(1, len(rows) // 4) :]]

    def middle(name: str) -> float:
        return round(median(row.get(name, 0.0) for row in inner), 3)

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return round(fmean(row[name] for row in rows), 4)

    name = f"validation/t={VALIDATED}/reward"
    ends = [rows[-1][name] for rows in runs if name in rows[-1]]
    return {
        "step_s": middle("step_s"),
        "waited_s": middle("seconds/rollout"),
        "beside_s": middle("seconds/ahead"),
        "update_s": middle("seconds/update"),
        "reward": mean(last, "reward"),
        "accuracy": round(fmean(ends), 4),
        "ratio": mean(late, "sampling/importance_sampling_ratio/mean"),
        "gap": mean(late, "sampling/sampling_logp_difference/mean"),
        "runs": [
            {"step_s": round(median(row["step_s"] for row in rows[1:-1]), 3), "accuracy": round(end, 4)}
            for rows, end in zip(runs, ends, strict=True)
        ],
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a scripted server, few steps")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--steps", type=int, default=None, help="of each run (20; with --quick 5)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--base-url", metavar="URL", help="a vLLM server that runs")
    options = parser.parse_args(argv)
    options.steps = options.steps or (5 if options.quick else 20)
    runs: dict[int, list[list[dict[str, float]]]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with scripted(folder / "base") if options.quick else vllm(options.base_url) as (base, url):
            for seed in range(options.repeats):
                for ahead, rows in runs.items():
                    output = folder / f"{ahead}-{seed}"
                    rows.append(run(config_of(base, url, output, ahead, seed, options)))
                    print(f"seed {seed}, ahead {ahead}: {summed_up(rows[-1:])}", flush=True)
    plain, ahead = (summed_up(rows) for rows in runs.values())
    longer = max(plain["waited_s"], plain["step_s"] - plain["waited_s"])
    result = {
        "server": "scripted" if options.quick else "vllm",
        "latency_s": LATENCY if options.quick else None,
        "steps": options.steps,
        "0": plain,
        "1": ahead,
        "of_plain": round(ahead["step_s"] / plain["step_s"], 3),
        "possible": round(longer / plain["step_s"], 3),
    }
    if options.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
