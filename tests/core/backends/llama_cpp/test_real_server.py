"""A real llama.cpp server: the contract of every backend, the ids of the model in process, exact counts."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from openai import AsyncOpenAI

from elastic_agent import Budget, load_backend
from elastic_agent.backends.base import GREEDY, Sampling, TokenRequest
from elastic_agent.backends.llama_cpp.server import LlamaCppServerBackend
from elastic_agent.errors import BackendError, BackendUnavailableError, UnknownModelError
from elastic_agent.generation.generate import Generation, generate
from elastic_agent.integrations.commands.upstreams import UpstreamConfig
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings
from elastic_agent.integrations.langchain import ChatElasticReasoning
from tests.core.backends.contract import Contract, Make, chunks_of, ids_of, read
from tests.llama_server import llama_server

QUESTION = "A shop has {} apples . #1 It sells {} . #2 It gets 3 boxes of 8 . How many apples are left ?"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama")) as found:
        yield found


def sampled(url: str) -> int:
    """The server's own count of all tokens that it sampled."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def busy(url: str) -> bool:
    """Whether a slot works."""
    with urllib.request.urlopen(f"{url}/slots") as answer:
        slots: list[dict[str, Any]] = json.load(answer)
    return any(slot["is_processing"] for slot in slots)


async def settled(url: str) -> int:
    """The count when no slot is busy any more."""
    while await asyncio.to_thread(busy, url):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return sampled(url)


class TestLlamaCpp(Contract):
    exact_meter = False

    @pytest.fixture
    def make(self, url: str) -> Make:
        async def one() -> LlamaCppServerBackend:
            backend = LlamaCppServerBackend("e1-tiny", url)
            await backend.ready()
            return backend

        return one


@pytest.mark.parametrize("thinking", [0, 8, 64])
async def test_as_in_process_and_exact_at_the_servers_counter(url: str, thinking: int) -> None:
    """Twenty calls at once: each id as in process, and the server sampled what the usage says."""
    served = load_backend("e1-tiny", base_url=url, engine="llama.cpp")
    await served.ready()
    before = await settled(url)

    async def all_of(backend: Any) -> list[Generation]:
        asked = [QUESTION.format(20 + n, 3 + n) for n in range(20)]
        budget = Budget(thinking, 48)
        return await asyncio.gather(
            *(generate(backend, [{"role": "user", "content": q}], budget, sampling=GREEDY) for q in asked)
        )

    found, wanted = await all_of(served), await all_of(load_backend("e1-tiny"))
    assert [one.output_ids for one in found] == [one.output_ids for one in wanted]
    assert await settled(url) - before == sum(sum(one.sampled) + one.usage.discarded for one in found)
    await served.aclose()


async def test_an_abandoned_pass_is_charged_what_was_served(url: str) -> None:
    """Closed in mid-stream: the receipt says what the server's counter says."""
    backend = LlamaCppServerBackend("e1-tiny", url)
    await backend.ready()
    prompt = tuple(backend.codec.encode_chat([{"role": "user", "content": QUESTION.format(30, 4)}]))
    bounds, counted = [], []
    for tokens in (1, 5, 20, 40):
        before = await settled(url)
        request = TokenRequest(
            prompt, 900, frozenset(), Sampling(1.0, 1.0), extra={"logit_bias": [[2, False]]}
        )
        read_so_far = 0
        async with aclosing(chunks_of(backend, request)) as stream:
            async for chunk in stream:
                read_so_far += len(chunk.ids)
                if read_so_far >= tokens:
                    break
        bounds.append(request.receipt.output_bound)
        counted.append(await settled(url) - before)
        assert counted[-1] >= tokens
    assert bounds == counted
    assert max(counted) < 900
    await backend.aclose()


async def test_a_text_that_spells_a_stop_token_does_not_stop(url: str) -> None:
    """A stop id whose text other tokens write, too: the pass goes on where the server ended."""
    backend = LlamaCppServerBackend("e1-tiny", url)
    await backend.ready()
    prompt = tuple(backend.codec.encode_chat([{"role": "user", "content": QUESTION.format(30, 4)}]))
    plain = ids_of(await read(backend, TokenRequest(prompt, 30, frozenset(), GREEDY)))
    never = next(number for number in range(20, 160) if number not in plain)
    backend._server.texts[never] = await backend._text_of([plain[6]])
    before = backend.meter.requests
    request = TokenRequest(prompt, 30, frozenset({never}), GREEDY)
    chunks = await read(backend, request)
    assert ids_of(chunks) == plain
    assert [chunk.finish for chunk in chunks if chunk.finish] == ["length"]
    assert backend.meter.requests - before > plain[:-1].count(plain[6]) > 0
    assert request.receipt.output == 30
    await backend.aclose()


async def test_guided_decoding(url: str) -> None:
    """A grammar holds the answer to a choice; what llama.cpp has no word for is refused before a token."""
    backend = LlamaCppServerBackend("e1-tiny", url)
    await backend.ready()
    prompt = tuple(backend.codec.encode_chat([{"role": "user", "content": QUESTION.format(30, 4)}]))
    extra = {"structured_outputs": {"choice": ["12", "21"]}}
    ids = ids_of(await read(backend, TokenRequest(prompt, 8, frozenset(), GREEDY, extra=extra)))
    assert "".join(backend.codec.decode(ids).split()) in ("12", "21")
    assert await backend.refusal(extra) == ""
    assert "regex" in await backend.refusal({"structured_outputs": {"regex": "a+"}})
    refused = TokenRequest(prompt, 8, extra={"bad_words": ["a"]})
    with pytest.raises(BackendError, match="no field 'bad_words'"):
        await read(backend, refused)
    assert refused.receipt.refused
    await backend.aclose()


async def test_through_langchain_and_the_gateway(url: str) -> None:
    """Named as users name it; the same answer, within its budgets, by both ways."""
    question = QUESTION.format(30, 4)
    llm = ChatElasticReasoning(
        model="e1-tiny",
        base_url=url,
        backend_options={"engine": "llama.cpp"},
        thinking_budget=16,
        solution_budget=64,
        temperature=0,
    )
    message = await llm.ainvoke(question)
    upstream = UpstreamConfig(name="tiny", url=url, engine="llama.cpp", served_as="e1-tiny").load()
    async with (
        Gateway(GatewaySettings([upstream], port=0, no_keys=True)) as gateway,
        AsyncOpenAI(base_url=gateway.url, api_key="-", max_retries=0) as client,
    ):
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_completion_tokens=80,
            extra_body={"thinking_budget": 16},
        )
    assert answer.choices[0].message.content == message.text
    assert "Answer" in message.text
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 16


async def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """A GGUF file of another tokenizer: said before the first call, with what to do."""
    with llama_server(tmp_path, shift=1) as url:
        backend = LlamaCppServerBackend("e1-tiny", url)
        with pytest.raises(UnknownModelError, match="tokenizer="):
            await backend.ready()
        await backend.aclose()


async def test_no_server_and_another_server(unused_tcp_port: int) -> None:
    """Nothing is charged, and the error says what is wrong."""
    backend = LlamaCppServerBackend("e1-tiny", f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(BackendUnavailableError):
        await backend.ready()
    request = TokenRequest((1, 2, 3), 4)
    with pytest.raises(BackendUnavailableError):
        await read(backend, request)
    assert request.receipt.refused
    with pytest.raises(UnknownModelError, match=r"one of vllm, llama\.cpp"):
        load_backend("e1-tiny", base_url="http://127.0.0.1:1", engine=cast("Any", "transformers"))
    await backend.aclose()
