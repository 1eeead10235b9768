"""Many two-phase machines driven together over one `BatchDecoder`, without asyncio.

What training rollouts and evaluation use: the same machine as a live call, so that what is trained and
measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from elastic_agent.backends.base import DEFAULT_SAMPLING, Sampling
from elastic_agent.backends.decode import BatchDecoder
from elastic_agent.phases import Phase, TwoPhase


def run_batch(
    decoder: BatchDecoder, machines: Sequence[TwoPhase], sampling: Sampling = DEFAULT_SAMPLING
) -> None:
    """Drive every machine to its end.

    A `sampling.seed` gives machine number i the seeds `seed + 2i` and `seed + 2i + 1`, one a pass.
    """
    running: dict[int, tuple[int, int]] = {}  # key -> machine, tokens read

    def next_pass(i: int) -> None:
        machine = machines[i]
        if machine.phase is Phase.CLOSING:
            machine.close()
        if not machine.done:
            second = machine.phase is Phase.SOLUTION
            seed = None if sampling.seed is None else sampling.seed + 2 * i + second
            running[decoder.add(machine.next_pass(replace(sampling, seed=seed)))] = (i, 0)

    for i in range(len(machines)):
        next_pass(i)
    while running:
        for sampled in decoder.step():
            i, read = running[sampled.key]
            machine = machines[i]
            logprobs = None if sampled.logprob is None else [sampled.logprob]
            machine.feed([sampled.token], logprobs, sampled.cached)
            if machine.over:
                decoder.cancel(sampled.key)
            elif sampled.finish is not None:
                machine.pass_ended(sampled.finish)
            else:
                running[sampled.key] = (i, read + 1)
                continue
            del running[sampled.key]
            next_pass(i)
