"""Greedy calls on vLLM's engine in process, for `vllm_greedy.py`: run by the Python that has vLLM.

    python -m benchmarks._vllm_engine MODEL OUTPUT < jobs.json      [[prompt, thinking, solution], ...]

OUTPUT gets the output ids of each, in order.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from elastic_agent.backends.base import GREEDY
from elastic_agent.backends.vllm.engine import VllmEngineBackend
from elastic_agent.budget import Budget
from elastic_agent.generation.generate import generate
from elastic_agent.model_location import model_path


def main() -> int:
    model, output = sys.argv[1:]
    jobs = [(prompt, Budget(t, s)) for prompt, t, s in json.load(sys.stdin)]
    backend = VllmEngineBackend.load(model_path(model), name=model, max_model_len=1024, max_num_seqs=64)
    Path(output).write_text(json.dumps(asyncio.run(measure(backend, jobs))))
    return 0


async def measure(backend: VllmEngineBackend, jobs: list[tuple[str, Budget]]) -> list[tuple[int, ...]]:
    """The output ids of each call, 16 at a time."""
    found = []
    for start in range(0, len(jobs), 16):
        batch = jobs[start : start + 16]
        found += await asyncio.gather(*(generate(backend, *one, sampling=GREEDY) for one in batch))
    await backend.aclose()
    return [generation.output_ids for generation in found]


if __name__ == "__main__":
    sys.exit(main())
