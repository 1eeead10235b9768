"""Engines as a Backend: calls of tasks are what `decode` samples, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.decoder import Sampled
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendError, BackendUnavailableError
from elastic_agent.generation.call import Call as LiveCall
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import model_path
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.grpo.phases import Phases, TimedEngine
from elastic_agent.training.rollouts.engines import in_process
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.in_process import TransformersEngine
from elastic_agent.training.rollouts.engines.serving import ServedModel
from elastic_agent.training.rollouts.prompts import codec_of
from elastic_agent.training.rollouts.rollout import Call, Rollout, rollout_of
from elastic_agent.training.run import train
from tests.training.runs import EASY, make_base, small
from tools.e1_tiny.tokenizer import build_tokenizer

CODEC = codec_of(build_tokenizer())
CONTEXT = 128


def calls_of(limits: Sequence[int | None]) -> list[Call]:
    """Calls in which the model thinks, of unlike prompts."""
    texts = [f"How many pens are {3 + i} pens and 4 pens?" for i in range(len(limits))]
    prompts = [CODEC.encode_chat([{"role": "user", "content": text}]) for text in texts]
    return [(prompt, Budget(t, 6)) for prompt, t in zip(prompts, limits, strict=True)]


CALLS = calls_of((0, 3, 12, None) * 4)
SEEDS = range(100, 100 + 2 * len(CALLS), 2)
SAMPLING = Sampling(1.5, 1.0)


def trainer_of(model: Any, numbers: dict[str, float] | None = None) -> Any:
    """What an engine reads of a trainer; `numbers` gets what is noted."""
    return SimpleNamespace(
        model=model,
        accelerator=Accelerator(cpu=True),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        note=({} if numbers is None else numbers).update,
        state=SimpleNamespace(global_step=0),
    )


@pytest.fixture(scope="module")
def trainer() -> Any:
    model = load_model(Path(model_path("e1-tiny")), attn_implementation="eager")
    return trainer_of(model.train())


def engine_of(trainer: Any, dtype: str | None = None) -> TransformersEngine:
    engine = TransformersEngine(dtype, ServedModel("base", CODEC, CONTEXT))
    engine.start(trainer)
    return engine


def in_a_loop(engine: Any, trainer: Any, use: Callable[[Backend], Any], rows: int = 64) -> Any:
    """What `use` brings, in an event loop of another thread, as agents run."""
    given, done = engine.serving(trainer, rows), Future[Any]()

    async def main() -> Any:
        async with given as backend:
            return await use(backend)

    def run() -> None:
        try:
            done.set_result(asyncio.run(main()))
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return done.result()


async def call(backend: Backend, i: int, *, logprobs: bool) -> Generation:
    prompt, budget = CALLS[i]
    sampling = replace(SAMPLING, seed=SEEDS[i], logprobs=logprobs)
    return await generate(backend, prompt, budget, sampling=sampling)


def all_calls(*, logprobs: bool) -> Callable[[Backend], Any]:
    async def use(backend: Backend) -> list[Generation]:
        return await asyncio.gather(*(call(backend, i, logprobs=logprobs) for i in range(len(CALLS))))

    return use


def same(served: Sequence[Generation], decoded: Sequence[Rollout], near: float) -> None:
    for mine, theirs in zip(served, decoded, strict=True):
        assert mine.output_ids == theirs.completion_ids
        assert [int(sampled) for sampled in mine.sampled] == list(theirs.env_mask)
        for p, q in zip(mine.logprobs, theirs.logprobs, strict=True):
            assert p == (None if q is None else pytest.approx(q, abs=near))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_served_calls_are_those_of_decode(trainer: Any, dtype: str | None) -> None:
    """Ids, masks and log-probs, from a loop in another thread; `decode` is the fast path of single calls. The
    model then trains in the mode and with the attention that it had."""
    phases = Phases()
    engine = TimedEngine(engine_of(trainer, dtype), phases)
    decoded = engine.decode(trainer, Batch(CALLS, CODEC.markers, CONTEXT, SAMPLING, SEEDS))
    phases.batch()
    assert engine.gives_logprobs == (dtype is not None)
    served = in_a_loop(engine, trainer, all_calls(logprobs=engine.gives_logprobs))
    if dtype == "bfloat16":
        assert all([p is None for p in g.logprobs] == [not sampled for sampled in g.sampled] for g in served)
    else:
        same(served, decoded, 1e-4)
    assert any(g.usage.forced for g in served)
    assert any(g.usage.thinking > 3 for g in served)
    at_rest(trainer)
    engine.check_served(trainer, decoded)
    assert phases.sampled == sum(g.usage.metered_output for g in served)
    assert phases.read == sum(len(r.prompt_ids) + len(r.completion_ids) for r in decoded)
    assert phases.batch()["seconds/rollout"] > 0


def at_rest(trainer: Any) -> None:
    """The model is as it was before it was served, and nothing runs."""
    assert trainer.model.training
    assert trainer.model.config._attn_implementation == "eager"
    assert [thread for thread in threading.enumerate() if thread.name == "base"] == []


def test_many_calls_of_which_some_are_cancelled(trainer: Any) -> None:
    """64 calls over 8 rows, a third cancelled whenever: the others are as alone, no row stays occupied, and
    the meter stands still once nobody asks."""
    engine = engine_of(trainer)
    random.seed(3)

    async def use(backend: Backend) -> None:
        alone = await all_calls(logprobs=False)(backend)
        tasks = [asyncio.create_task(call(backend, i % len(CALLS), logprobs=False)) for i in range(64)]
        cancelled = set(random.sample(range(64), 20))
        for i in sorted(cancelled, key=lambda _: random.random()):
            await asyncio.sleep(0.01)
            tasks[i].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for i, one in enumerate(done):
            if isinstance(one, asyncio.CancelledError):
                assert i in cancelled
            else:
                assert isinstance(one, Generation)
                assert one.output_ids == alone[i % len(CALLS)].output_ids
        decoder = cast("Any", backend)._decoder
        for _ in range(100):
            if not len(decoder):
                break
            await asyncio.sleep(0.05)
        assert len(decoder) == 0
        before = backend.meter.output
        await asyncio.sleep(0.1)
        assert backend.meter.output == before

    in_a_loop(engine, trainer, use, rows=8)
    at_rest(trainer)


def test_a_decoder_that_fails_ends_its_calls_and_serves_the_next(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-batch, as where memory runs out."""
    engine = engine_of(trainer)
    decoded = engine.decode(trainer, Batch(CALLS, CODEC.markers, CONTEXT, SAMPLING, SEEDS))
    step, steps = BatchDecoder.step, 0

    def fails(self: BatchDecoder) -> list[Sampled]:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise RuntimeError("out of memory")
        return step(self)

    monkeypatch.setattr(BatchDecoder, "step", fails)

    async def use(backend: Backend) -> list[Any]:
        calls = (call(backend, i, logprobs=False) for i in range(len(CALLS)))
        done = await asyncio.gather(*calls, return_exceptions=True)
        failed = [one for one in done if isinstance(one, BackendError)]
        assert failed
        assert all("out of memory" in str(one) for one in failed)
        for one, theirs in zip(done, decoded, strict=True):
            assert one in failed or cast("Generation", one).output_ids == theirs.completion_ids
        return await all_calls(logprobs=False)(backend)

    served = in_a_loop(engine, trainer, use)
    assert [g.output_ids for g in served] == [r.completion_ids for r in decoded]
    at_rest(trainer)


@pytest.mark.parametrize("how", ["error", "cancel"])
def test_however_it_is_left_the_thread_has_ended(
    trainer: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With calls that still run, which end with BackendUnavailableError; also when it is cancelled as it is
    left, which must not let the thread step the model beside the update."""
    step = BatchDecoder.step

    def slowly(self: BatchDecoder) -> list[Sampled]:
        time.sleep(0.1)
        return step(self)

    monkeypatch.setattr(BatchDecoder, "step", slowly)
    running: list[asyncio.Task[Any]] = []

    async def use(backend: Backend) -> None:
        running[:] = [asyncio.create_task(call(backend, 3, logprobs=False)) for _ in range(4)]
        while not backend.meter.output:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.001)
        if how == "error":
            raise ZeroDivisionError
        me = asyncio.current_task()
        assert me is not None
        asyncio.get_running_loop().call_later(0.02, me.cancel)
        asyncio.get_running_loop().call_later(0.021, me.cancel)
        await asyncio.sleep(10)

    async def main() -> None:
        async with engine.serving(trainer) as backend:
            await use(backend)

    async def outer() -> None:
        with pytest.raises(ZeroDivisionError if how == "error" else asyncio.CancelledError):
            await asyncio.create_task(main())
        at_rest(trainer)
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(one, BackendUnavailableError) for one in ended)

    engine = engine_of(trainer)
    asyncio.run(outer())


def test_another_thread_can_leave_it_where_the_event_loop_is_blocked(trainer: Any) -> None:
    """At once, with calls in mid-air; the model can be served again while the loop stands still, and when it
    goes on, its calls end, and what it leaves has been left."""
    engine = TimedEngine(engine_of(trainer), Phases())
    given, blocked, free = engine.serving(trainer), threading.Event(), threading.Event()

    async def main() -> list[Any]:
        async with given as backend:
            running = [asyncio.create_task(call(backend, i, logprobs=False)) for i in range(8)]
            while not backend.meter.output:  # noqa: ASYNC110 (another thread counts)
                await asyncio.sleep(0.001)
            blocked.set()
            free.wait()
            return await asyncio.gather(*running, return_exceptions=True)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, main())
        blocked.wait()
        leaving = given.__aexit__(None, None, None)
        with pytest.raises(StopIteration):
            leaving.send(None)  # type: ignore[attr-defined]
        at_rest(trainer)
        again = engine.serving(trainer)

        async def served_again() -> None:
            async with again as backend:
                free.set()
                await asyncio.gather(asyncio.wrap_future(ended), return_exceptions=True)
                assert not trainer.model.training
                await call(backend, 0, logprobs=False)

        asyncio.run(served_again())
    assert any(isinstance(one, BackendUnavailableError) for one in ended.result())
    at_rest(trainer)


class Served(TransformersEngine):
    """Decodes through its own Backend."""

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        async def one(backend: Backend, i: int) -> Rollout:
            prompt, budget = batch.calls[i]
            drawn = replace(batch.sampling, seed=batch.seeds[i], logprobs=self.gives_logprobs)
            running = LiveCall(backend, prompt, budget, sampling=drawn, buffered=True)
            _ = [event async for event in running]
            return rollout_of(running.machine)

        async def use(backend: Backend) -> list[Rollout]:
            return await asyncio.gather(*(one(backend, i) for i in range(len(batch.calls))))

        return list(in_a_loop(self, trainer, use))


def test_a_run_on_served_calls_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base")
    options: dict[str, Any] = {"reward": {"kind": EASY}, "learning": {"rate": 0.01}}
    plain = train(small(base, tmp_path / "plain", **options), log=lambda _: None).model.state_dict()
    monkeypatch.setattr(in_process, "TransformersEngine", Served)
    served = train(small(base, tmp_path / "served", **options), log=lambda _: None).model.state_dict()
    before = load_model(base).state_dict()
    assert all(torch.allclose(served[name], weight, atol=1e-6) for name, weight in plain.items())
    assert any(not torch.allclose(before[name], weight, atol=1e-3) for name, weight in plain.items())
