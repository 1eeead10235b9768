"""What two passes cost at a real vLLM server, beside one uncut generation of as many ids.

    python benchmarks/vllm_overhead.py            concurrency 1, 8, 64; own server, or --base-url
    python benchmarks/vllm_overhead.py --quick    fewer and shorter calls
    python benchmarks/vllm_overhead.py --native   also one pass whose limits the engine holds
    python benchmarks/vllm_overhead.py --json     one JSON object as the last line

A round is as many calls three times, in an order that changes from round to round: as one request for t, a
close and s tokens, as two passes (thinking cut at t, the close forced, s more), and as three (begun with
half of t, and raised to t when that is reached). The close and the end of text are made impossible, so
that all have one length. All go through one client with its connections open, for which nobody reads along,
and each has a fresh prompt, so that no cache helps a first pass; its length is any of a block's, since the
second pass reads the block again that is not full. `ratio` is the median over rounds of the time of two
passes by that of one, by concurrency; `inflight_ratio` that of three passes by two; `native_ratio` that of
the engine's one pass by two; `prefix_hit` the share of full blocks of prompt and thinking that the second
pass found in the prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from statistics import median
from typing import Any

from benchmarks._vllm import parser, served
from elastic_agent.backends.base import GREEDY, TokenRequest
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.control import Control


def endless(model: str, base_url: str, *, native: bool = False) -> VllmServerBackend:
    """A client whose model says neither a close nor an end of text by itself."""
    codec = VllmServerBackend(model, base_url).codec
    never = (*codec.markers.eos_ids, *codec.markers.close_ids)
    bias = {"logit_bias": {str(i): -100 for i in never}}
    return VllmServerBackend(model, base_url, codec=codec, extra_body=bias, native=native)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, help="rounds at each concurrency (default 24 to 9)")
    options.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    options.add_argument("--prompt", type=int, default=256, help="least prompt tokens")
    options.add_argument("--thinking", type=int, help="default 384, 96 with --quick")
    options.add_argument("--solution", type=int, help="default 96, 24 with --quick")
    options.add_argument("--block", type=int, default=32, help="tokens of a block of the server's cache")
    args = options.parse_args()
    args.thinking = args.thinking or (96 if args.quick else 384)
    args.solution = args.solution or (24 if args.quick else 96)
    with served(args) as base_url:
        result = asyncio.run(measure(args, base_url))
    print(
        json.dumps(result) if args.json else "\n".join(f"{key:15} {value}" for key, value in result.items())
    )
    return 0


async def measure(args: Any, base_url: str) -> dict[str, Any]:
    """Every concurrency, one after the other; its first round warms up and is thrown away."""
    rng, client = random.Random(args.seed), endless(args.model, base_url)
    await client.ready()
    clients, native = dict.fromkeys(("one", "two", "three"), client), dict[int, float]()
    if args.native:
        clients["native"] = endless(args.model, base_url, native=True)
        await clients["native"].ready()
    plain, marks = sorted({*client.codec.encode("a shop has 12 books .")}), client.codec.markers
    ratio: dict[int, float] = {}
    inflight: dict[int, float] = {}
    found = full = 0
    for many in args.concurrency:
        rounds = args.rounds or (max(1, 4 // many) if args.quick else max(9, 24 // many))
        seconds: dict[str, list[float]] = {kind: [] for kind in clients}
        for turn in range(rounds + 1):
            order = rng.sample(sorted(seconds), len(seconds))
            for kind in order:
                lengths = [args.prompt + rng.randrange(args.block) for _ in range(many)]
                prompts = [
                    (*rng.choices(plain, k=length - len(marks.open_ids)), *marks.open_ids)
                    for length in lengths
                ]
                start = time.perf_counter()
                cached = await asyncio.gather(*(run(clients[kind], kind, args, p) for p in prompts))
                if turn:
                    seconds[kind].append(time.perf_counter() - start)
                if kind == "two":
                    found += sum(cached)
                    # The last token sampled was never read: its block is not full yet
                    full += sum((n + args.thinking - 1) // args.block * args.block for n in lengths)
        ratio[many] = round(paired(seconds["two"], seconds["one"]), 3)
        inflight[many] = round(paired(seconds["three"], seconds["two"]), 3)
        if args.native:
            native[many] = round(paired(seconds["native"], seconds["two"]), 3)
        print(f"{many} at once:", {kind: [round(s, 3) for s in spent] for kind, spent in seconds.items()})
    for one in {*clients.values()}:
        await one.aclose()
    result = {"ratio": ratio, "prefix_hit": round(found / full, 4), "inflight_ratio": inflight}
    return result | ({"native_ratio": native} if native else {})


def paired(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios: both have had the same neighbours on the machine."""
    return median(a / b for a, b in zip(over, under, strict=True))


async def run(client: VllmServerBackend, kind: str, args: Any, prompt: tuple[int, ...]) -> int:
    """One call of a kind; the input tokens that the prefix cache had."""
    budget = Budget(args.thinking, args.solution)
    if kind == "one":
        length = args.thinking + len(client.codec.markers.close_ids) + args.solution
        request = TokenRequest(prompt, length, sampling=GREEDY)
        async with aclosing(client.stream(request)) as chunks:
            assert length == sum([len(chunk.ids) async for chunk in chunks])
        return 0
    control = Control()
    if kind == "three":
        budget = Budget(args.thinking // 2, args.solution)

        async def more(used: int) -> int | None:
            return args.thinking if used < args.thinking else None

        control = Control(extend_limit=more)
    steered = None if kind == "native" else control
    call = Call(client, prompt, budget, sampling=GREEDY, control=steered, buffered=True)
    async for _ in call:
        pass
    assert call.usage.passes == {"two": 2, "three": 3, "native": 1}[kind]
    return call.usage.cached


if __name__ == "__main__":
    sys.exit(main())
