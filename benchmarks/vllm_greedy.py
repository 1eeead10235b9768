"""Greedy calls bring the same ids from vLLM in two passes, natively and in process, and from transformers.

    python benchmarks/vllm_greedy.py            200 prompts; own server, or --base-url
    python benchmarks/vllm_greedy.py --quick    40 prompts
    python benchmarks/vllm_greedy.py --json     one JSON object as the last line

`differences` lists where a vLLM server's two passes and transformers first part: the position, and by how
many nats the two tokens differ there in transformers' own log-probs. A gap near 0 is rounding, a large one
a bug (the exit status says so, above --gap). `engine_differences` is the same for vLLM's engine in process
(`vllm_engine`), which is started in the Python that has vLLM when the server has stopped. `native` counts
calls whose ids the server repeats in one pass, whose limits its engine holds, of those that think at all
(`native_of`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks._calls import problem
from benchmarks._vllm import ENVIRONMENT, backend, parser, served
from elastic_agent.backends.base import GREEDY
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.vllm.process import vllm_python
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import model_path

ROOT = Path(__file__).resolve().parent.parent
Done = tuple[tuple[str, Budget], Generation]
"""A prompt with its budget, and what transformers said."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, help="how many (default 200, 40 with --quick)")
    options.add_argument("--gap", type=float, default=1e-3, help="nats that rounding may explain")
    options.add_argument("--no-native", dest="native", action="store_false", help="two passes only")
    options.set_defaults(native=True)
    options.add_argument("--no-engine", dest="engine", action="store_false", help="no engine in process")
    args = options.parse_args()
    torch.set_num_threads(1)
    prompts = args.prompts or (40 if args.quick else 200)
    with served(args) as base_url:
        result, calls = asyncio.run(measure(args, base_url, prompts))
    if args.engine:
        result |= in_process(args, calls)
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:12} {value}" for key, value in result.items())
    )
    gaps = [gap for key in ("differences", "engine_differences") for _, gap in result.get(key, ())]
    return int(any(gap > args.gap for gap in gaps))


async def measure(args: Any, base_url: str, prompts: int) -> tuple[dict[str, Any], list[Done]]:
    """The server's comparison, 16 prompts at a time; and what transformers said to each."""
    rng = random.Random(args.seed)
    server = VllmServerBackend(args.model, base_url)
    await server.ready()
    whole = await backend(args, base_url)
    here = TransformersBackend.load(model_path(args.model), name=args.model)
    differences: list[tuple[int, float]] = []
    native: list[bool] = []
    calls: list[Done] = []
    jobs = [(problem(rng), Budget(rng.randint(0, 200), rng.randint(1, 60))) for _ in range(prompts)]
    for start in range(0, prompts, 16):
        batch = jobs[start : start + 16]
        over = await asyncio.gather(*(generate(server, *job, sampling=GREEDY) for job in batch))
        own = await asyncio.gather(*(generate(here, *job, sampling=GREEDY) for job in batch))
        if args.native:
            once = await asyncio.gather(*(generate(whole, *job, sampling=GREEDY) for job in batch))
            pairs = zip(over, once, strict=True)
            native += [two.output_ids == one.output_ids for two, one in pairs if not one.two_passes]
        differences += parted(here, own, [g.output_ids for g in over])
        calls += zip(batch, own, strict=True)
    await server.aclose()
    await whole.aclose()
    await here.aclose()
    result = {
        "prompts": prompts,
        "identical": prompts - len(differences),
        "differences": differences,
        "native": sum(native),
        "native_of": len(native),
    }
    return result, calls


def in_process(args: Any, calls: Sequence[Done]) -> dict[str, Any]:
    """The same calls on vLLM's engine, in another Python's process."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "ids.json"
        subprocess.run(
            [str(vllm_python()), "-m", "benchmarks._vllm_engine", args.model, str(output)],
            input=json.dumps([(prompt, budget.thinking, budget.solution) for (prompt, budget), _ in calls]),
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            text=True,
            stdout=sys.stderr,
            check=True,
        )
        found = [tuple(ids) for ids in json.loads(output.read_text())]
    here = TransformersBackend.load(model_path(args.model), name=args.model)
    differences = parted(here, [own for _, own in calls], found)
    return {"engine_identical": len(calls) - len(differences), "engine_differences": differences}


def parted(
    here: TransformersBackend, own: Sequence[Generation], over: Sequence[Sequence[int]]
) -> list[tuple[int, float]]:
    """Where other outputs of the same prompts first part from ours, and the nats between the two tokens."""
    return [found for a, b in zip(own, over, strict=True) if (found := difference(here, a, b))]


def difference(here: TransformersBackend, own: Generation, over: Sequence[int]) -> tuple[int, float] | None:
    """The same of one output; None where they are the same."""
    pairs = zip(own.output_ids, over, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if at is None:
        return None if own.output_ids == tuple(over) else (len(own.output_ids), float("inf"))
    ids = [*own.prompt_ids, *own.output_ids[:at]]
    with torch.inference_mode():
        logprobs = here.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    return at, abs(float(logprobs[own.output_ids[at]] - logprobs[over[at]]))


if __name__ == "__main__":
    sys.exit(main())
