"""Servers as one Backend on a scripted wire: the calls of `decode`, and what becomes of calls and servers
when a server is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.errors import BackendError, BackendUnavailableError
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation
from elastic_agent.training.budgets.distributions import call_seeds
from elastic_agent.training.grpo.phases import Phases, TimedEngine
from elastic_agent.training.rollouts.ahead import FLYING
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.vllm_servers import ServedRollouts
from elastic_agent.training.rollouts.in_flight import InFlight, NextBatch
from tests.training.rollouts.engines.test_serving import CODEC, calls_of, in_a_loop, same
from tests.training.rollouts.engines.test_vllm_servers import (
    Staged,
    make_engine,
    served,
    serving,
    trainer_of,
)
from tests.training.runs import make_base
from tests.wire import Wire

CALLS = calls_of((0, 3, 12, None) * 3)
SEEDS = call_seeds(1, calls=range(len(CALLS)))
SAMPLING = Sampling(1.0, 1.0, logprobs=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def wire(base: Path) -> Iterator[Staged]:
    with serving(base) as wire:
        yield wire


@pytest.fixture
def other(base: Path) -> Iterator[Staged]:
    with serving(base) as wire:
        yield wire


async def call(backend: Backend, i: int) -> Generation:
    prompt, budget = CALLS[i]
    return await generate(backend, prompt, budget, sampling=replace(SAMPLING, seed=SEEDS[i]))


async def all_calls(backend: Backend) -> list[Any]:
    """Each call's generation, or its error; four at a time."""
    room = asyncio.Semaphore(4)

    async def one(i: int) -> Generation:
        async with room:
            return await call(backend, i)

    return await asyncio.gather(*(one(i) for i in range(len(CALLS))), return_exceptions=True)


Use = Callable[[Backend], Awaitable[Any]]


def use(engine: ServedRollouts, base: Path, work: Use) -> tuple[Any, dict[str, float]]:
    """(what `work` brings, what was noted)"""
    numbers: dict[str, float] = {}
    trainer = trainer_of(base, numbers)
    found = in_a_loop(engine, trainer, work)
    engine.check_served(trainer, [])
    return found, numbers


def test_served_calls_are_those_of_decode(base: Path, wire: Staged, other: Staged, tmp_path: Path) -> None:
    """Ids, masks and log-probs, from either server; requests leave nothing to a server's defaults; the
    log-probs of the samples are compared with the trainer's, seconds and tokens counted."""
    numbers: dict[str, float] = {}
    trainer, phases = trainer_of(base, numbers), Phases()
    engine = TimedEngine(make_engine(served(base, tmp_path, wire, other)), phases)
    decoded = engine.decode(trainer, Batch(CALLS, CODEC.markers, 128, SAMPLING, SEEDS))
    phases.batch()
    numbers.clear()
    before = len(wire.requests), len(other.requests)
    assert engine.gives_logprobs
    found = in_a_loop(engine, trainer, all_calls)
    same(found, decoded, 1e-4)
    assert len(wire.requests) > before[0]
    assert len(other.requests) > before[1]
    assert all(body["ignore_eos"] and body["top_k"] == 0 for body in wire.requests)
    engine.check_served(trainer, decoded)
    assert numbers["rollout/logprob_gap_max"] < 1e-4
    assert numbers["rollout/lost"] == 0
    assert numbers["rollout/sync_seconds"] > 0
    assert phases.sampled >= sum(sum(g.sampled) for g in found)
    assert phases.read == sum(len(r.prompt_ids) + len(r.completion_ids) for r in decoded)
    assert phases.batch()["seconds/rollout"] > 0


def cut(wire: Wire, n: int) -> None:
    """Connections 3 to 6 break after two tokens."""
    wire.faults.cut_after = 2 if 3 <= n <= 6 else None


def restart(wire: Wire, n: int) -> None:
    """A server that comes back, once, knows nothing of adapters."""
    if n == 5 and wire.adapters and len(wire.loads) == 2:
        wire.adapters.clear()


@pytest.mark.parametrize("plan", [cut, restart])
@pytest.mark.parametrize("servers", [1, 2])
def test_a_lost_server_costs_its_calls_alone(
    base: Path, wire: Staged, other: Staged, tmp_path: Path, plan: Any, servers: int
) -> None:
    """Those that ran there end with BackendUnavailableError; those that provably never ran go elsewhere, or
    wait. Later calls are answered, by the lost server, too, which was given the weights again."""
    lines: list[str] = []
    wires = (wire, other)[:servers]
    engine = make_engine(served(base, tmp_path, *wires), lines)

    async def work(backend: Backend) -> tuple[list[Any], list[Any]]:
        wire.plan = plan
        first = await all_calls(backend)
        wire.plan, wire.faults.cut_after = Staged.plan, None
        return first, await all_calls(backend)

    (first, second), numbers = use(engine, base, work)
    lost = [one for one in first if isinstance(one, Exception)]
    assert len(lost) in (range(1, len(CALLS)) if plan is cut else (0,))
    assert all(isinstance(one, BackendUnavailableError) for one in lost)
    assert not [one for one in second if isinstance(one, Exception)]
    for mine, theirs in zip(first, second, strict=True):
        assert isinstance(mine, Exception) or mine.output_ids == theirs.output_ids
    assert numbers["rollout/lost"] == len(lost)
    assert lines
    assert all("calls go to the others until it has the weights again" in line for line in lines)
    assert len(wire.loads) == (2 if plan is cut else 3), "the check's, the batch's, and that of the restart"
    assert len(wire.requests) > len(CALLS) / servers


def test_calls_wait_for_a_server_and_a_run_without_one_stops(base: Path, tmp_path: Path) -> None:
    """While it is away for a moment, calls wait; when the retries are used up, they end, and so does the run,
    with the numbers."""
    lines: list[str] = []
    with serving(base) as wire:
        engine = make_engine(served(base, tmp_path, wire, server={"backoff": 0.2, "retries": 3}), lines)

        async def away(backend: Backend) -> list[Any]:
            wire.faults.status = 503
            broken = await all_calls(backend)
            wire.faults.status = None
            return [*broken, await call(backend, 0)]

        found, _ = use(engine, base, away)
        assert isinstance(found[-1], Generation)
        given = engine.serving(trainer_of(base, {}))
    began = time.monotonic()

    async def lost_for_good() -> None:
        async with given as backend:
            await all_calls(backend)

    with pytest.raises(BackendUnavailableError, match=r"4 tries in a row gave no server .*reached"):
        asyncio.run(lost_for_good())
    assert 0.2 + 0.4 + 0.8 <= time.monotonic() - began < 10


def test_what_no_retry_will_change_stops_the_run(base: Path, wire: Staged, tmp_path: Path) -> None:
    engine = make_engine(served(base, tmp_path, wire))

    async def work(backend: Backend) -> Any:
        assert wire.adapters
        wire.adapters.clear()
        wire.faults.refuse_adapters = "no room for it"
        await all_calls(backend)
        with pytest.raises(BackendError, match="no room for it"):
            await call(backend, 0)

    with pytest.raises(BackendError, match="no room for it"):
        use(engine, base, work)


def test_a_batch_in_flight_is_served(base: Path, wire: Staged, tmp_path: Path) -> None:
    """In the thread of the batch, with weights that were published before; given up, it ends at once."""
    engine = make_engine(served(base, tmp_path, wire))
    numbers: dict[str, float] = {}
    trainer = trainer_of(base, numbers)
    arguments = SimpleNamespace(steps_per_generation=1, num_iterations=1, gradient_accumulation_steps=1)
    trainer.args, trainer.num_generations = arguments, 2

    def make(prompts: list[Any], batch: NextBatch) -> dict[str, Any]:
        found = in_a_loop(FLYING, batch, all_calls)
        FLYING.check_served(batch, [])
        return {"found": found}

    flight = InFlight(engine, engine.publish(trainer), 0, [])
    flight.begin(trainer, make)
    found = flight.land()["found"]
    assert all(isinstance(one, Generation) for one in found)
    assert flight.sampled >= sum(sum(one.sampled) for one in found)
    assert flight.loading > 0

    def stall(wire: Wire, n: int) -> None:
        wire.faults.stall_after = 2

    wire.plan = stall
    flight = InFlight(engine, engine.publish(trainer), 1, [])
    asked = len(wire.requests)
    flight.begin(trainer, make)
    while len(wire.requests) == asked:
        time.sleep(0.01)
    began = time.monotonic()
    flight.cancel()
    assert time.monotonic() - began < 5
    with pytest.raises(BaseException):  # noqa: B017 (what the loop of the thread ends with)
        flight.land()
