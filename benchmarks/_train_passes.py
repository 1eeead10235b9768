"""Batches of one engine, timed: under budgets, and plain ones of as many tokens from the same prompts.

Both kinds are drawn by the same engine with the same weights, and nothing else is timed: no syncing, no
comparing of log-probs. And the in-process decoder, beside `model.generate`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from elastic_agent.backends.base import Sampling, TokenRequest
from elastic_agent.training.rollouts.rollout import Rollout

Pass = Callable[[], Any]


def passes_of(engine: Any, trainer: Any, batch: Any, rollouts: Sequence[Rollout]) -> tuple[Pass, Pass]:
    """(one batch under budgets, one plain batch of as many tokens a row as `rollouts` have)."""
    if hasattr(engine, "sample"):
        return _on_servers(engine, trainer, batch, rollouts)
    return lambda: engine.decode(trainer, batch), lambda: _in_process(engine, trainer, rollouts)


def seconds(call: Pass) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int) -> list[float]:
    return [round(min(values), digits), round(max(values), digits)]


def _request(number: int, row: Rollout, logprobs: bool) -> TokenRequest:
    sampling = Sampling(1.0, 1.0, seed=number, logprobs=logprobs)
    return TokenRequest(row.prompt_ids, sum(row.env_mask), frozenset(), sampling)


def _in_process(engine: Any, trainer: Any, rollouts: Sequence[Rollout]) -> None:
    from elastic_agent.backends.transformers.decode import BatchDecoder
    from elastic_agent.training.rollouts.engines.engine import whole_model

    copy = getattr(engine, "_copy", None)
    if getattr(engine, "_llm", None) is not None:
        from elastic_agent.training.rollouts.engines.colocated.decoder import VllmDecoder

        decoder: Any = VllmDecoder(engine._llm)
    else:
        model = (whole_model(trainer) if copy is None else copy).eval()
        decoder = BatchDecoder(model, max_rows=len(rollouts), tempered=copy is not None)
    for i, row in enumerate(rollouts):
        decoder.add(_request(i, row, copy is not None))
    left = len(rollouts)
    while left:
        left -= sum(one.finish is not None for one in decoder.step())


def _on_servers(engine: Any, trainer: Any, batch: Any, rollouts: Sequence[Rollout]) -> tuple[Pass, Pass]:
    from elastic_agent.training.rollouts.engines.vllm_server import PLAIN

    weights = engine.publish(trainer)
    server = engine._servers[0]

    async def plain() -> None:
        backend = server.backend(weights)
        at_once = asyncio.Semaphore(engine._settings.concurrency)

        async def one(i: int, row: Rollout) -> None:
            request = replace(_request(i, row, True), extra=PLAIN)
            async with at_once, aclosing(backend.stream(request)) as chunks:
                async for _ in chunks:
                    pass

        await asyncio.gather(*(one(i, row) for i, row in enumerate(rollouts)))

    return lambda: asyncio.run(engine.sample(weights, batch)), lambda: asyncio.run(plain())


def beside_generate(folder: Path, length: int, new: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Tokens a second of the decoder and of `model.generate`, 32 rows, by precision; the median of turns.

    Args:
        length, new: tokens of a prompt, and of an answer.
    """
    import torch

    from elastic_agent.backends.transformers.decode import BatchDecoder
    from elastic_agent.training.grpo.export import load_model

    found: dict[str, dict[str, Any]] = {}
    rows, draws = 32, torch.Generator().manual_seed(0)
    for dtype in ("float32", "bfloat16"):
        model = load_model(folder, dtype=getattr(torch, dtype))
        ids = torch.randint(10, min(400, model.config.vocab_size), (rows, length), generator=draws)

        def ours(model: Any = model, ids: Any = ids) -> None:
            decoder = BatchDecoder(model, max_rows=rows)
            for row in ids.tolist():
                decoder.add(TokenRequest(tuple(row), new, frozenset(), Sampling(1.0, 1.0)))
            while len(decoder):
                decoder.step()

        def theirs(model: Any = model, ids: Any = ids) -> None:
            drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
            lengths = {"max_new_tokens": new, "min_new_tokens": new}
            model.generate(ids, attention_mask=torch.ones_like(ids), **drawn, **lengths)

        with torch.inference_mode():
            pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
        ratios = [generate / own for own, generate in pairs]
        found[dtype] = {
            "ours": round(rows * new / median(own for own, _ in pairs), 2),
            "generate": round(rows * new / median(generate for _, generate in pairs), 2),
            "of_generate": round(median(ratios), 3),
            "spread": spread(ratios, 3),
        }
    return found
