"""Law 3, measured: random calls on the transformers backend against their budgets and a plain reference.

    python benchmarks/exactness.py            500 calls, a few minutes
    python benchmarks/exactness.py --quick    200 calls, the reference for every 20th: half a minute
    python benchmarks/exactness.py --json     one JSON object as the last line

Each call has t from 0 to 200 thinking and s from 1 to 60 solution tokens, runs beside up to 15 others that
differ, streamed or not, greedy or sampled. A greedy call's ids are compared with two plain
`model.generate` calls (transformers' own decoding, no batch): think until the close, end of text or t; the
close; solve until end of text or s. With --quick the others are held against one plain forward
over the whole sequence: the best token after each prefix, ended by the same rules. The exit status is 1 when
a call spent too much or differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks._calls import job, run
from elastic_agent.backends.base import GREEDY
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.budget import Budget
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import embedded_models, model_path
from elastic_agent.prompts.markers import Markers
from elastic_agent.prompts.tokenizer import HFCodec

Extend = Callable[[list[int], int, set[int]], list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls, the reference for every 20th")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--calls", type=int, help="how many calls (default 500, 200 with --quick)")
    parser.add_argument("--model", default="e1-tiny", help="an embedded model (default e1-tiny), or a folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    every = 20 if args.quick else 1
    calls = args.calls or (200 if args.quick else 500)
    result, notes = asyncio.run(measure(calls, args.model, args.seed, every))
    for note in notes:
        print(note)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:18} {value}" for key, value in result.items()))
    return int(any(value for key, value in result.items() if key != "calls"))


async def measure(calls: int, model: str, seed: int, every: int) -> tuple[dict[str, int], list[str]]:
    """The counts, and a note for each mismatch. One greedy call of `every` gets the slow reference."""
    rng, backend = random.Random(seed), load(model)
    result = {"calls": 0, "over_thinking": 0, "over_solution": 0, "greedy_mismatches": 0}
    notes: list[str] = []
    greedy = 0
    while result["calls"] < calls:
        width = rng.randint(1, 16)
        batch = [job(rng) for _ in range(min(4 * width, calls - result["calls"]))]
        lanes = asyncio.Semaphore(width)
        done = await asyncio.gather(*(run(backend, lanes, *one) for one in batch))
        for (_, budget, sampling, _), generation in zip(batch, done, strict=True):
            result["calls"] += 1
            result["over_thinking"] += len(generation.thinking_ids) > (budget.thinking or 0)
            result["over_solution"] += len(generation.solution_ids) > budget.solution
            if sampling is GREEDY:
                note = mismatch(backend, generation, budget, plain=greedy % every == 0)
                greedy += 1
                result["greedy_mismatches"] += note is not None
                notes += [note] if note else []
    await backend.aclose()
    return result, notes


def load(model: str) -> TransformersBackend:
    """The model asked for; a random one where the embedded one is not there yet."""
    if model != "e1-tiny" or model in embedded_models():
        return TransformersBackend.load(model_path(model), name=model)
    from tools.e1_tiny.model import new_model
    from tools.e1_tiny.tokenizer import build_tokenizer

    torch.manual_seed(0)
    return TransformersBackend(new_model().eval(), HFCodec(build_tokenizer()), name="random")


def mismatch(
    backend: TransformersBackend, generation: Generation, budget: Budget, *, plain: bool
) -> str | None:
    """What differs from the reference, with the gap between the two best logits there: a gap near 0 is
    rounding, a large one a bug."""
    model, prompt = backend._decoder.model, list(generation.prompt_ids)
    found = list(generation.output_ids)
    extend = partial(by_generate, model) if plain else one_forward(model, prompt + found)
    expected = reference(extend, backend.codec.markers, prompt, budget)
    if expected == found:
        return None
    at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    if at is None:
        return f"{budget}: {len(found)} tokens, the reference has {len(expected)}"
    with torch.inference_mode():
        ids = torch.tensor([prompt + expected[:at]])
        best = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].topk(2).values
    return f"{budget}: token {at} is {found[at]}, not {expected[at]}; logit gap {best[0] - best[1]:.2e}"


def reference(extend: Extend, markers: Markers, prompt: list[int], budget: Budget) -> list[int]:
    """Two plain calls."""
    eos, close = set(markers.eos_ids), list(markers.close_ids)
    thinking = extend(prompt, budget.thinking or 0, {*eos, *close})
    if thinking[-1:] != close:
        thinking = [*(i for i in thinking if i not in eos), *close]
    return thinking + extend(prompt + thinking, budget.solution, eos)


def one_forward(model: Any, sequence: list[int]) -> Extend:
    """Greedy decoding read off one forward: right as long as what is decoded is what the sequence holds."""
    with torch.inference_mode():
        best = model(input_ids=torch.tensor([sequence])).logits[0].argmax(-1).tolist()

    def extend(ids: list[int], tokens: int, stops: set[int]) -> list[int]:
        out: list[int] = []
        while len(out) < tokens and not (out and out[-1] in stops) and len(ids) + len(out) <= len(best):
            out.append(best[len(ids) + len(out) - 1])
        return out

    return extend


def by_generate(model: Any, ids: list[int], tokens: int, stops: set[int]) -> list[int]:
    """Greedy decoding by transformers. Mask and stops are explicit: it would guess others."""
    if tokens == 0:
        return []
    given = torch.tensor([ids])
    out = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        eos_token_id=sorted(stops),
        pad_token_id=0,
        use_cache=True,
    )
    return [int(i) for i in out[0, len(ids) :]]


if __name__ == "__main__":
    sys.exit(main())
