"""Drives two-phase machines to their end, without text: a batch over a `Decoder`, one over a `Backend`.

Training rollouts and evaluation use these drivers. The machine is the same as a live call's, so what is
trained and measured is what is served.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from ..backends.base import DEFAULT_SAMPLING, Backend, Sampling, TokenChunk
from ..backends.decoder import Decoder
from ..errors import BackendProtocolError
from .phases.phase import Phase
from .phases.two_phase import TwoPhase


def run_batch(
    decoder: Decoder,
    machines: Sequence[TwoPhase],
    sampling: Sampling = DEFAULT_SAMPLING,
    seeds: Sequence[int] | None = None,
) -> None:
    """Drive every machine to its end.

    Args:
        seeds: of each machine's first pass; the next passes have the next numbers, as a live call's have.
            None: a `sampling.seed` gives machine number i the seeds from `seed + 2i` on.
    """
    if seeds is None and sampling.seed is not None:
        seeds = range(sampling.seed, sampling.seed + 2 * len(machines), 2)
    running: dict[int, int] = {}  # key -> machine

    def next_pass(i: int) -> None:
        machine = machines[i]
        if machine.phase is Phase.CLOSING:
            machine.close()
        if not machine.done:
            seed = None if seeds is None else seeds[i] + machine.usage.passes
            running[decoder.add(machine.next_pass(replace(sampling, seed=seed)))] = i

    for i in range(len(machines)):
        next_pass(i)
    while running:
        for sampled in decoder.step():
            i = running[sampled.key]
            machine = machines[i]
            logprobs = None if sampled.logprob is None else [sampled.logprob]
            machine.feed([sampled.token], logprobs, sampled.cached)
            if machine.pass_over:
                decoder.cancel(sampled.key)
            elif sampled.finish is not None:
                machine.pass_ended(sampled.finish)
            else:
                continue
            del running[sampled.key]
            next_pass(i)


async def run_machine(
    backend: Backend,
    machine: TwoPhase,
    sampling: Sampling = DEFAULT_SAMPLING,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Drive one machine to its end; `extra` goes to the engine with every pass.

    A `sampling.seed` gives the passes the seeds `seed`, `seed + 1` and so on.

    Raises:
        BackendError: as `Backend.stream` does; the machine then stands where the pass broke off.
    """
    while not machine.done:
        if machine.phase is Phase.CLOSING:
            machine.close()
            continue
        seed = None if sampling.seed is None else sampling.seed + machine.usage.passes
        request = replace(machine.next_pass(replace(sampling, seed=seed)), extra=extra or {})
        finish = None
        async with aclosing(cast("AsyncGenerator[TokenChunk]", backend.stream(request))) as chunks:
            async for chunk in chunks:
                machine.feed(chunk.ids, chunk.logprobs, chunk.cached)
                finish = chunk.finish
                if machine.pass_over:
                    break
        if not machine.pass_over:
            if finish is None:
                raise BackendProtocolError(f"{backend.model}: the stream ended without a finish")
            machine.pass_ended(finish)
