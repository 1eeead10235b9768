"""A real vLLM server that serves e1-tiny: the contract that every backend passes, and what only it can show.

The tests share one server (tests/vllm_server.py), and skip where there is no vLLM (`make vllm`). The
benchmarks that they call measure more of the same.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks import vllm_abort, vllm_exactness, vllm_greedy
from elastic_agent.backends.base import GREEDY, Backend
from elastic_agent.backends.vllm_process import VllmProcess
from elastic_agent.backends.vllm_server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.control import Control
from elastic_agent.generate import Call, generate
from elastic_agent.phases import ThinkingEnd
from tests.backends.contract import Contract, Make
from tests.vllm_server import MODEL

# A server starts in a minute on an idle machine, and in several on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUESTION = "A shop has 40 apples . #1 It sells 12 . #2 It gets 7 . #3 It sells 9 . How many apples are left ?"


@pytest.fixture
def server(vllm: VllmProcess) -> VllmProcess:
    vllm.ensure()
    return vllm


@pytest.fixture
def make(server: VllmProcess) -> Make:
    async def make() -> Backend:
        backend = VllmServerBackend(MODEL, server.base_url)
        await backend.ready()
        return backend

    return make


@pytest.fixture
async def backend(make: Make) -> AsyncIterator[Backend]:
    made = await make()
    yield made
    await made.aclose()


def asked(**options: Any) -> argparse.Namespace:
    """A benchmark's options."""
    return argparse.Namespace(**{"model": MODEL, "seed": 7, "native": False} | options)


class TestVllm(Contract):
    """The whole contract."""

    exact_meter = False


async def test_budgets_and_counters(server: VllmProcess) -> None:
    """Law 3 and law 2 at the server: t and s are never exceeded, and our usage is what `/metrics` counted."""
    counts, ends = await vllm_exactness.measure(asked(concurrency=16), server.base_url, 60)
    assert counts == {"calls": 60, "over_thinking": 0, "over_solution": 0, "usage_mismatches": 0}
    assert ends[ThinkingEnd.NATURAL]
    assert ends[ThinkingEnd.BUDGET]


async def test_the_limits_that_the_engine_holds(server: VllmProcess) -> None:
    """The same in one pass a call: exact, and `/metrics` says what our usage says, the engine's own close and
    end among it."""
    counts, ends = await vllm_exactness.measure(asked(concurrency=16, native=True), server.base_url, 60)
    assert counts == {"calls": 60, "over_thinking": 0, "over_solution": 0, "usage_mismatches": 0}
    assert ends[vllm_exactness.ONE_PASS] > 50
    assert ends[ThinkingEnd.NATURAL]
    assert ends[ThinkingEnd.BUDGET]


async def test_a_cancelled_call_stops_the_engine(server: VllmProcess) -> None:
    """A call that is left, or whose task is cancelled, is generated for at most one more step."""
    after, _ = await vllm_abort.measure(asked(), server.base_url, 12)
    assert after.total() == 12
    assert max(after) <= 1


async def test_greedy_is_what_transformers_says(server: VllmProcess) -> None:
    """The same ids as in process; where they part it is rounding. In one pass the same ids as in two."""
    found, _ = await vllm_greedy.measure(asked(native=True), server.base_url, 16)
    assert found["prompts"] == 16
    assert found["native"] == found["native_of"] > 10
    assert all(gap < 1e-3 for _, gap in found["differences"]), found


async def test_a_limit_raised_in_flight_brings_the_same_ids(backend: Backend) -> None:
    """Thinking raised twice when it reaches its limit: the tokens of the final limit, in two more passes."""
    plain = await generate(backend, QUESTION, Budget(24, 24), sampling=GREEDY)
    assert plain.thinking_end is ThinkingEnd.BUDGET, "the question is too easy for this test"

    async def more(used: int) -> int | None:
        return used + 8 if used < 24 else None

    call = Call(backend, QUESTION, Budget(8, 24), sampling=GREEDY, control=Control(more=more))
    _ = [event async for event in call]
    assert call.result().output_ids == plain.output_ids
    assert (plain.usage.passes, call.usage.passes) == (2, 4)


async def test_the_second_pass_finds_the_first_in_the_cache(backend: Backend) -> None:
    """All full blocks of prompt and thinking are in the server's prefix cache, and the usage says so."""
    done = await generate(backend, QUESTION, Budget(100, 24), sampling=GREEDY)
    block = 32
    second = len(done.prompt_ids) + len(done.thinking_ids)  # the close was never computed
    assert done.usage.passes == 2
    assert done.usage.cached >= (second - 1) // block * block > 0
