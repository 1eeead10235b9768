"""Greedy calls bring the same ids from a vLLM server, in two passes and natively, and from transformers.

    python benchmarks/vllm_greedy.py            200 prompts; own server, or --base-url
    python benchmarks/vllm_greedy.py --quick    40 prompts
    python benchmarks/vllm_greedy.py --json     one JSON object as the last line

`differences` lists where the server's two passes and transformers first part: the position, and by how many
nats the two tokens differ there in transformers' own log-probs. A gap near 0 is rounding, a large one a bug
(the exit status says so, above --gap). `native` counts calls whose ids vLLM's own `thinking_token_budget`
repeats in one request, of those that think at all (`native_of`); it needs a server with --reasoning-config.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks._calls import problem
from benchmarks._vllm import OPTIONS, backend, parser, served
from elastic_agent.backends.base import GREEDY, Backend, TokenRequest
from elastic_agent.backends.load import model_path
from elastic_agent.backends.transformers import TransformersBackend
from elastic_agent.budget import Budget
from elastic_agent.generate import Generation, generate

REASONING = '--reasoning-config={"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, help="how many (default 200, 40 with --quick)")
    options.add_argument("--gap", type=float, default=1e-3, help="nats that rounding may explain")
    options.add_argument("--no-native", dest="native", action="store_false", help="two passes only")
    args = options.parse_args()
    torch.set_num_threads(1)
    prompts = args.prompts or (40 if args.quick else 200)
    with served(args, (*OPTIONS, REASONING)) as base_url:
        result = asyncio.run(measure(args, base_url, prompts))
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:12} {value}" for key, value in result.items())
    )
    return int(any(gap > args.gap for _, gap in result["differences"]))


async def measure(args: Any, base_url: str, prompts: int) -> dict[str, Any]:
    """The comparison, 16 prompts at a time."""
    rng, server = random.Random(args.seed), await backend(args, base_url)
    here = TransformersBackend.load(model_path(args.model), name=args.model)
    differences: list[tuple[int, float]] = []
    native: list[bool] = []
    jobs = [(problem(rng), Budget(rng.randint(0, 200), rng.randint(1, 60))) for _ in range(prompts)]
    for start in range(0, prompts, 16):
        batch = jobs[start : start + 16]
        over = await asyncio.gather(*(generate(server, *job, sampling=GREEDY) for job in batch))
        own = await asyncio.gather(*(generate(here, *job, sampling=GREEDY) for job in batch))
        thought = [g for g in over if g.thinking_ids]
        if args.native:
            native += await asyncio.gather(*(natively(server, g) for g in thought))
        differences += [found for a, b in zip(own, over, strict=True) if (found := difference(here, a, b))]
    await server.aclose()
    await here.aclose()
    return {
        "prompts": prompts,
        "identical": prompts - len(differences),
        "differences": differences,
        "native": sum(native),
        "native_of": len(native),
    }


def difference(here: TransformersBackend, own: Generation, over: Generation) -> tuple[int, float] | None:
    """Where two outputs of one prompt first part, and the nats between the two tokens."""
    pairs = zip(own.output_ids, over.output_ids, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if at is None:
        return None if own.output_ids == over.output_ids else (len(own.output_ids), float("inf"))
    ids = [*own.prompt_ids, *own.output_ids[:at]]
    with torch.inference_mode():
        logprobs = here.module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    return at, abs(float(logprobs[own.output_ids[at]] - logprobs[over.output_ids[at]]))


async def natively(server: Backend, two_pass: Generation) -> bool:
    """Whether one request under vLLM's own thinking limit brings the same ids."""
    request = TokenRequest(
        two_pass.prompt_ids,
        len(two_pass.output_ids),
        server.codec.markers.eos_ids,
        GREEDY,
        extra={"thinking_token_budget": two_pass.budget.thinking},
    )
    return await sampled(server, request) == two_pass.output_ids


async def sampled(server: Backend, request: TokenRequest) -> Sequence[int]:
    """The ids of one pass."""
    return tuple([i async for chunk in server.stream(request) for i in chunk.ids])


if __name__ == "__main__":
    sys.exit(main())
