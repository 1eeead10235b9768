"""vLLM's engine in process, with e1-tiny: the contract that every backend passes, and what only it can show.

`test_vllm_engine.py` runs this in the environment that has vLLM, where nothing else of the tests is
installed. Starting an engine takes a minute, so the tests share one; the last of them kills it.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from re import fullmatch
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY
from safetensors.torch import save_file

from benchmarks._calls import job, problem, run
from elastic_agent.backends.base import GREEDY, Limits, Sampling, TokenRequest
from elastic_agent.backends.load import load_backend
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.vllm.async_engine import Engine
from elastic_agent.backends.vllm.engine import PROCESSOR, VllmEngineBackend
from elastic_agent.budget import Budget
from elastic_agent.errors import (
    BackendError,
    BackendUnavailableError,
    UnknownModelError,
    UnsupportedError,
)
from elastic_agent.generation.call import Call
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.model_location import model_path
from tests.core.backends.contract import Contract, Make, chunks_of, ids_of, read
from tests.vllm_server import EXECUTOR

MODEL = "e1-tiny"
QUESTION = "A shop has 40 apples . #1 It sells 12 . #2 It gets 7 . #3 It sells 9 . How many apples are left ?"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    options: dict[str, Any] = {
        "max_model_len": 1024,
        "max_num_seqs": 64,
        "enable_lora": True,
        "max_lora_rank": 8,
    }
    options["distributed_executor_backend"] = EXECUTOR
    made = Engine(model=model_path(MODEL), logits_processors=[PROCESSOR], **options)
    yield made
    made.stop()


@pytest.fixture
def make(engine: Engine) -> Make:
    async def make() -> VllmEngineBackend:
        return VllmEngineBackend(engine, name=MODEL)

    return make


@pytest.fixture
async def backend(engine: Engine) -> AsyncIterator[VllmEngineBackend]:
    made = VllmEngineBackend(engine, name=MODEL)
    yield made
    await made.aclose()


def counted(name: str) -> int:
    """One of vLLM's own counters."""
    return sum(
        int(sample.value)
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == f"vllm:{name}_tokens_total"
    )


def request(backend: VllmEngineBackend, tokens: int, **options: Any) -> TokenRequest:
    prompt = backend.codec.encode_chat([{"role": "user", "content": QUESTION}])
    return TokenRequest(tuple(prompt), tokens, **options)


class TestVllmEngine(Contract):
    """The whole contract."""


async def test_budgets_and_counters(backend: VllmEngineBackend) -> None:
    """Laws 2 and 3: t and s are never exceeded; our usage and meter are what vLLM's counters say."""
    rng, lanes = random.Random(7), asyncio.Semaphore(16)
    prompt, output = counted("prompt"), counted("generation")
    jobs = [job(rng) for _ in range(60)]
    done = await asyncio.gather(*(run(backend, lanes, *one) for one in jobs))
    for (_, budget, _, _), made in zip(jobs, done, strict=True):
        assert len(made.thinking_ids) <= (budget.thinking or 0)
        assert len(made.solution_ids) <= budget.solution
        assert made.usage.unknown == 0
    ends = {made.thinking_end for made in done}
    assert {ThinkingEnd.NATURAL, ThinkingEnd.BUDGET} <= ends
    used = sum(made.usage.metered_input for made in done), sum(made.usage.metered_output for made in done)
    assert used == (backend.meter.input, backend.meter.output)
    assert used == (counted("prompt") - prompt, counted("generation") - output)


async def test_the_limits_that_the_engine_holds(engine: Engine, backend: VllmEngineBackend) -> None:
    """One pass brings what two bring, exactly counted."""
    whole, rng = VllmEngineBackend(engine, name=MODEL, native=True), random.Random(5)
    await whole.ready()
    assert whole.two_passes == ""
    for _ in range(16):
        asked, budget = problem(rng), Budget(rng.randint(1, 100), rng.randint(1, 60))
        before = whole.meter.output
        one, two = [await generate(b, asked, budget, sampling=GREEDY) for b in (whole, backend)]
        assert (one.output_ids, one.sampled) == (two.output_ids, two.sampled)
        assert one.two_passes == "" != two.two_passes
        assert (one.usage.passes, one.usage.unknown) == (1, 0)
        assert one.usage.metered_output == whole.meter.output - before
    bad = request(whole, 4, limits=Limits(-1, 1, 2, 0))
    with pytest.raises(BackendError, match="elastic_limits"):
        await read(whole, bad)
    await whole.aclose()


async def test_a_cancelled_call_is_counted_exactly(engine: Engine, backend: VllmEngineBackend) -> None:
    """Law 2: calls left at any point have nothing unknown, and are charged what vLLM counted."""
    rng, before, used = random.Random(3), counted("generation"), 0

    async def leave(after: int) -> None:
        nonlocal used
        call = Call(backend, problem(rng), Budget(600, 1), sampling=Sampling(1.0, 1.0))
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if call.usage.metered_output >= after:
                    break
        assert call.usage.unknown == 0
        used += call.usage.metered_output

    await asyncio.gather(*(leave(after) for after in range(24)))
    task = asyncio.create_task(leave(500))
    while not engine.llm.get_num_unfinished_requests():  # noqa: ASYNC110 (another thread's)
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert engine.llm.get_num_unfinished_requests() == 0
    assert backend.meter.output == counted("generation") - before >= used


async def test_left_before_it_was_sent(engine: Engine, backend: VllmEngineBackend) -> None:
    """A call that is cancelled while it is handed over doesn't run on."""
    for turns in range(4):
        task = asyncio.create_task(read(backend, request(backend, 900)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert engine.llm.get_num_unfinished_requests() == 0


async def test_greedy_is_what_transformers_says(backend: VllmEngineBackend) -> None:
    """The same ids as from transformers (benchmarks/vllm_greedy.py explains where they part by rounding)."""
    here, rng = TransformersBackend.load(model_path(MODEL), name=MODEL), random.Random(7)
    for _ in range(8):
        asked, budget = problem(rng), Budget(rng.randint(0, 200), rng.randint(1, 60))
        one, other = [await generate(b, asked, budget, sampling=GREEDY) for b in (backend, here)]
        assert one.output_ids == other.output_ids
    await here.aclose()


async def test_fields_for_the_engine(backend: VllmEngineBackend) -> None:
    """`extra` is vLLM's: a grammar is obeyed, a limit of ours stays, what vLLM doesn't know is an error."""
    guided = {"structured_outputs": {"regex": "(#[1-9]){3}"}}  # its tokens have no blanks in them
    result = await generate(backend, QUESTION, Budget(8, 40), solution_extra=guided, sampling=GREEDY)
    assert fullmatch("#[1-9] #[1-9] #[1-9]", result.solution)
    assert len(ids_of(await read(backend, request(backend, 3, extra={"max_tokens": 30, "n": 2})))) == 3
    close = backend.codec.markers.close_ids[0]
    always = {"logit_bias": {str(close): 100}}
    assert ids_of(await read(backend, request(backend, 4, extra=always, sampling=GREEDY))) == [close] * 4
    for bad in (
        {"no_such_field": 1},
        {"structured_outputs": {"regex": "(", "nonsense": 1}},
        {"structured_outputs": {"regex": "("}},
        {"min_tokens": 99},
        {"thinking_token_budget": 3},
    ):
        refused = request(backend, 4, extra=bad)
        with pytest.raises(BackendError) as raised:
            await read(backend, refused)
        assert not isinstance(raised.value, BackendUnavailableError)
        assert refused.receipt.refused


async def test_a_grammar_is_refused_before_a_token(backend: VllmEngineBackend) -> None:
    """Law 4: vLLM's own words about a schema, ours about an answer that e1-tiny can't write; nothing is
    metered, and other fields of the call are none of it."""
    bad = {"json": '{"type": "array", "contains": {"type": "integer"}}'}
    for guide, says in (
        (bad, "can't write"),
        ({"regex": "("}, "by this schema"),
        ({"x": 1}, "by this schema"),
    ):
        with pytest.raises(UnsupportedError, match=says):
            await generate(backend, QUESTION, Budget(8, 8), solution_extra={"structured_outputs": guide})
    assert "Unimplemented keys" in await backend.refusal({"structured_outputs": bad})
    assert backend.meter.requests == 0
    good = {"structured_outputs": {"json": '{"type": "integer"}'}, "min_tokens": 2}
    result = await generate(backend, QUESTION, Budget(8, 8), solution_extra=good)
    assert result.solution.lstrip("-").isdecimal()


async def test_a_grammar_is_checked_once(backend: VllmEngineBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n answers of a request have the same fields: vLLM is asked about them once."""
    checks, check = [], backend.engine.check

    async def counted(*given: Any) -> None:
        checks.append(given)
        await check(*given)

    monkeypatch.setattr(backend.engine, "check", counted)
    for pattern, many in (("a", 1), ("a", 1), ("b", 2), ("a", 2)):
        assert await backend.refusal({"structured_outputs": {"regex": pattern}}) == ""
        assert len(checks) == many


async def test_ids_outside_the_vocabulary(backend: VllmEngineBackend) -> None:
    """A prompt id that the model lacks is a BackendError before anything is metered."""
    for bad in (10**6, -1):
        refused = TokenRequest((6, bad), 1)
        with pytest.raises(BackendError):
            await read(backend, refused)
        assert refused.receipt.refused
    assert backend.meter.requests == 0


async def test_the_second_pass_finds_the_first_in_the_cache(backend: VllmEngineBackend) -> None:
    """All full blocks of prompt and thinking are in the prefix cache, and the usage says so."""
    done = await generate(backend, QUESTION, Budget(100, 24), sampling=GREEDY)
    second = len(done.prompt_ids) + len(done.thinking_ids) + (0 if done.usage.forced else 1)
    assert done.usage.cached >= (second - 1) // 32 * 32 > 0


async def test_more_urgent_calls_go_first(backend: VllmEngineBackend) -> None:
    """`priority` reaches the engine: of many that wait, the one with the lowest number ends first."""
    ended: list[int] = []

    async def one(priority: int) -> None:
        await read(backend, request(backend, 40, priority=priority, extra={"ignore_eos": True}))
        ended.append(priority)

    await asyncio.gather(*(one(priority) for priority in (*range(200, 0, -1), -1)))
    assert ended.index(-1) < 150  # 64 run at once; asked for last, it would end last


async def test_an_adapter(engine: Engine, backend: VllmEngineBackend, tmp_path: Path) -> None:
    """A LoRA adapter on the same engine: other tokens, a name and a meter of its own."""
    config = json.loads((Path(model_path(MODEL)) / "config.json").read_text())
    width, rank = config["hidden_size"], 4
    torch.manual_seed(1)
    at = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        weights[at.format(layer, "A")] = torch.randn(rank, width)
        weights[at.format(layer, "B")] = torch.randn(config["head_dim"] * config["num_attention_heads"], rank)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    adapted = backend.adapted("mine", tmp_path)
    plain = ids_of(await read(backend, request(backend, 20, sampling=GREEDY)))
    other = ids_of(await read(adapted, request(backend, 20, sampling=GREEDY)))
    assert other != plain
    assert (adapted.model, adapted.meter.output) == ("mine", len(other))
    await adapted.aclose()
    assert ids_of(await read(backend, request(backend, 20, sampling=GREEDY))) == plain


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    """What vLLM can't load is an UnknownModelError that says why."""
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UnknownModelError, match="vLLM can't run"):
        VllmEngineBackend.load(tmp_path)


def test_an_engine_of_its_own() -> None:
    """By name, with vLLM's own arguments unchanged; closing it in mid-stream ends the stream, exactly
    counted, and its processes."""
    before = set(multiprocessing.active_children())
    options: dict[str, Any] = {"engine": "vllm", "max_model_len": 256, "disable_log_stats": True}
    options["distributed_executor_backend"] = EXECUTOR
    backend: Any = load_backend(MODEL, **options)
    assert backend.context_length == 256
    assert backend.engine.llm.scheduler_config.policy == "priority"
    assert load_backend(MODEL, **options) is backend
    asked = request(backend, 200, extra={"ignore_eos": True})

    async def main() -> None:
        stream = chunks_of(backend, asked)
        await anext(stream)
        closing = asyncio.create_task(backend.aclose())
        await asyncio.sleep(0)
        with pytest.raises(BackendUnavailableError, match="closed"):
            _ = [chunk async for chunk in stream]
        await closing

    asyncio.run(main())
    assert asked.receipt.output == backend.meter.output
    assert backend.closed
    assert set(multiprocessing.active_children()) <= before


async def test_the_engine_dies(engine: Engine, backend: VllmEngineBackend) -> None:
    """Law 8: a call of an engine that is killed ends with a clear error, and what it may have served is
    charged; a later one costs nothing."""
    asked = request(backend, 900, extra={"ignore_eos": True})
    stream = chunks_of(backend, asked)
    await anext(stream)
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(BackendUnavailableError):
        _ = [chunk async for chunk in stream]
    assert asked.receipt.output is None
    assert not asked.receipt.refused
    assert backend.closed
    later = request(backend, 5)
    with pytest.raises(BackendUnavailableError):
        await read(backend, later)
    assert later.receipt.refused
