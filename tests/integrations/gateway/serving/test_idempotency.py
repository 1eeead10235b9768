"""One `Idempotency-Key`, one answer; and what clients are told that try again by themselves."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import StoreUnavailableError
from elastic_agent.integrations.gateway.accounts.keys import Keys
from elastic_agent.integrations.gateway.answers import chat_format
from elastic_agent.integrations.gateway.serving import idempotency, shared_response
from elastic_agent.integrations.gateway.settings import Limits
from elastic_agent.integrations.gateway.storage.answer_table import Entry, KeepLimits
from tests.integrations.gateway.conftest import HELLO, Served, Start, until
from tests.wire import Faults

BODY: dict[str, Any] = {"messages": HELLO, "thinking_budget": 5, "solution_budget": 20}
SLOW = Reply(thinking="hm " * 400, solution="so it is 42")


async def send(
    served: Served,
    key: str | None,
    body: dict[str, Any] = BODY,
    path: str = "/chat/completions",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request with a key."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["Idempotency-Key"] = key
    async with served.session.post(f"{served.gateway.url}{path}", json=body, headers=sent) as response:
        return response.status, dict(response.headers), await response.read()


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses"])
async def test_the_same_key_twice_is_one_generation(start: Start, path: str, stream: bool) -> None:
    """The same answer byte for byte, charged once; without a key each request is its own."""
    body: dict[str, Any] = BODY | {"stream": stream}
    if path != "/chat/completions":
        body = {"prompt" if path == "/completions" else "input": "hello", **body}
        del body["messages"]
    async with start() as served:
        first = await send(served, "a", body, path)
        again = await send(served, "a", dict(reversed(body.items())), path)
        assert first[0] == again[0] == 200
        assert first[2] == again[2]
        assert again[1]["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first[1]
        for name in ("Content-Type", "X-Elastic-Granted"):
            assert first[1][name] == again[1][name]
        assert served.backend.meter.requests == 2  # two passes
        assert served.access[-1]["replayed"]
        await send(served, None, body, path)
        await send(served, "b", body, path)
        assert served.backend.meter.requests == 6
        await served.exact()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_comes_while_it_runs_reads_along(start: Start, stream: bool) -> None:
    """Ten at once: one generation, ten times the same answer."""
    async with start(SLOW, tpot=0.001) as served:
        body = BODY | {"thinking_budget": 100, "stream": stream}
        found = await asyncio.gather(*(send(served, "a", body) for _ in range(10)))
        assert {status for status, _, _ in found} == {200}
        assert len({text for _, _, text in found}) == 1
        assert served.backend.meter.requests == 2
        await served.exact()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_times_out_and_tries_again(start: Start, stream: bool) -> None:
    """Its retry finds the call that it left, and pays nothing more."""
    async with start(SLOW, tpot=0.002) as served:
        body = BODY | {"thinking_budget": 100, "stream": stream}
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await send(served, "a", body)
        status, _, text = await send(served, "a", body)
        assert status == 200
        assert b"so it is 42" in text or b"42" in text
        assert served.backend.meter.requests == 2
        await served.exact()


async def test_a_client_that_leaves_for_good(start: Start) -> None:
    """The call is stopped soon, what it used is charged, and its key says so without another generation."""
    limits = Limits(leave_seconds=0.1, grace_seconds=1.0)
    async with start(SLOW, tpot=0.002, limits=limits) as served:
        body = BODY | {"thinking_budget": 390}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send(served, "a", body)
        await until(lambda: not served.backend.running)
        await until(lambda: not served.gateway.idempotency._running)
        status, headers, text = await send(served, "a", body)
        assert (status, code(text)) == (409, "idempotency_key_left")
        assert headers["x-should-retry"] == "false"
        assert served.backend.meter.requests == 1
        await served.covered()


async def test_a_key_is_its_requests_and_its_owners(start: Start, ledger: str) -> None:
    """Another body, another path or another budget under one key is a 422; another API key's is its own."""
    keys = Keys(ledger)
    alice, bob = (f"Bearer {keys.create(name)[0]}" for name in ("alice", "bob"))
    async with start(ledger=ledger, no_keys=False) as served:
        assert (await send(served, "a", Authorization=alice))[0] == 200
        assert (await send(served, "a", Authorization=bob))[1].get("Idempotent-Replayed") is None
        assert served.backend.meter.requests == 4
        for other in (
            send(served, "a", BODY | {"thinking_budget": 6}, Authorization=alice),
            send(served, "a", BODY | {"stream": True}, Authorization=alice),
            send(served, "a", {"prompt": "x"}, "/completions", Authorization=alice),
            send(served, "a", Authorization=alice, X_Elastic_Kind="other"),
        ):
            status, _, text = await other
            assert (status, code(text)) == (422, "idempotency_key_reused")
        assert served.backend.meter.requests == 4
    keys.close()


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä"])
async def test_what_is_no_key(start: Start, key: str) -> None:
    """400, at no cost."""
    async with start() as served:
        status, _, text = await send(served, key)
        assert (status, json.loads(text)["error"]["param"]) == (400, "Idempotency-Key")
        sent = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        async with served.session.post(
            f"{served.gateway.url}/chat/completions", json=BODY, headers=sent
        ) as response:
            assert response.status == 400
        assert not served.backend.meter.requests


async def test_an_error_that_cost_nothing_gives_the_key_back(start: Start) -> None:
    """A refusal, a bad field, an upstream that is away: the same key works once it can."""
    async with start(faults=Faults(status=429)) as served:
        status, headers, _ = await send(served, "a")
        assert status == 503
        assert "Retry-After" in headers
        assert "x-should-retry" not in headers
        assert (await send(served, "a", BODY | {"temperature": "hot"}))[0] == 400
        served.wire.faults = Faults()
        assert (await send(served, "a"))[0] == 200
        await served.exact()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "faults", [Faults(cut_after=0), Faults(status=500), Faults(malformed_after=0)], ids=str
)
async def test_an_error_that_was_billed_is_its_keys_answer(
    start: Start, faults: Faults, stream: bool
) -> None:
    """It says what it cost, and not to try again; with a key nobody can, without one it is not advised."""
    async with start(faults=faults) as served:
        for key in ("a", None):
            status, headers, text = await send(served, key, BODY | {"stream": stream})
            assert status in (502, 503)
            assert headers["x-should-retry"] == "false"
            assert "Retry-After" not in headers
            charged = json.loads(text)["error"]["charged"]
            assert charged["requests"] == 1
            assert charged["tokens"] == 5
        asked = len(served.wire.requests)
        served.wire.faults = Faults()
        status, headers, text = await send(served, "a", BODY | {"stream": stream})
        assert (status, headers["Idempotent-Replayed"]) == (status, "true")
        assert status in (502, 503)
        assert len(served.wire.requests) == asked
        await served.covered()


async def test_a_failure_of_our_own_that_was_billed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a request that cost something: not to be tried again, and its key's answer."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(chat_format.ChatFormatter, "_answer", broken)
    async with start() as served:
        for key, asked in (("a", 2), ("a", 2), (None, 4)):
            status, headers, text = await send(served, key)
            assert (status, code(text), headers["x-should-retry"]) == (500, "internal_error", "false")
            assert json.loads(text)["error"]["charged"]["requests"] == 2
            assert b"secret" not in text
            assert served.backend.meter.requests == asked


async def test_openais_client_pays_once(start: Start) -> None:
    """Its default two retries: an error that was billed is raised at once, with a key or without; one that
    cost nothing is tried again."""
    async with start(faults=Faults(cut_after=3)) as served:
        client = openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none")
        messages: Any = HELLO
        ask = client.chat.completions.create
        with pytest.raises(openai.InternalServerError) as raised:
            await ask(model="scripted", messages=messages, extra_body={"thinking_budget": 20})
        assert raised.value.body["charged"]["tokens"] >= 3  # type: ignore[index]
        assert len(served.wire.requests) == 1
        served.wire.faults = Faults(status=429)
        with pytest.raises(openai.InternalServerError):
            await ask(model="scripted", messages=messages, extra_body={"thinking_budget": 20})
        assert len(served.wire.requests) == 1 + 3
        await client.close()
        await served.covered()


async def test_openais_client_that_times_out_with_a_key(start: Start) -> None:
    """`timeout` and two retries under one key: one generation."""
    async with start(SLOW, tpot=0.004) as served:
        client = openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none", timeout=0.8)
        messages: Any = HELLO
        said = await client.chat.completions.create(
            model="scripted",
            messages=messages,
            extra_body={"thinking_budget": 250, "solution_budget": 20},
            extra_headers={"Idempotency-Key": "one"},
        )
        assert said.choices[0].message.content == "so it is 42"
        assert served.backend.meter.requests == 2
        await client.close()
        await served.exact()


async def test_tasks_are_opened_once(start: Start) -> None:
    """The same for a task without a name: a retry finds the one that was opened."""
    async with start() as served:
        body = {"tokens": 1000}
        first, again = [await send(served, "t", body, "/tasks") for _ in range(2)]
        assert first[0] == again[0] == 201
        assert json.loads(first[2])["id"] == json.loads(again[2])["id"]
        assert len(served.gateway.tasks) == 1


async def test_it_outlives_the_gateway(start: Start, ledger: str) -> None:
    """DurableLedger where the ledger is: another gateway on it tells the same, and charges nothing."""
    async with start(ledger=ledger) as served:
        first = await send(served, "a", BODY | {"stream": True})
    async with start(ledger=ledger) as served:
        again = await send(served, "a", BODY | {"stream": True})
        assert first[2] == again[2]
        assert not served.backend.meter.requests


async def test_what_another_process_does_under_a_key(start: Start, tmp_path: Path) -> None:
    """Running there: 409, and try again. Never ended: 409, and don't."""
    ledger = str(tmp_path / "shared.db")
    async with start(SLOW, tpot=0.003, ledger=ledger) as one, start(ledger=ledger) as two:
        running = asyncio.ensure_future(send(one, "a"))
        await until(lambda: bool(one.backend.running))
        status, headers, text = await send(two, "a")
        assert (status, code(text)) == (409, "idempotency_key_in_use")
        assert headers["Retry-After"] == "2"
        assert "x-should-retry" not in headers
        first = await running
        assert (await send(two, "a"))[2] == first[2]
        entry = Entry(idempotency._digest(["dead"], "open"), "open", one_of(two, BODY), time.time() - 1.0)
        two.gateway.idempotency._answers.claim(entry, time.time(), KeepLimits())
        status, headers, text = await send(two, "dead")
        assert (status, code(text), headers["x-should-retry"]) == (409, "idempotency_key_unknown", "false")
        assert not two.backend.meter.requests


def one_of(served: Served, body: dict[str, Any]) -> str:
    """The fingerprint of a chat request with this body."""

    class Request:
        path, headers = "/v1/chat/completions", dict[str, str]()

    return idempotency._fingerprint(Request(), json.dumps(body).encode())  # type: ignore[arg-type]


async def test_a_large_answer_is_not_kept(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients have it whole; who comes later is told that it is gone, and pays nothing."""
    monkeypatch.setattr(shared_response, "BUFFER", 2000)
    async with start() as served:
        served.gateway.idempotency._keep = KeepLimits(answer_bytes=10)
        for key, stream in (("a", False), ("b", True)):
            status, _, text = await send(served, key, BODY | {"stream": stream})
            assert status == 200
            assert (b"[DONE]" in text) == stream
            status, headers, text = await send(served, key, BODY | {"stream": stream})
            assert (status, code(text)) == (409, "idempotency_answer_gone")
            assert headers["x-should-retry"] == "false"
        assert served.backend.meter.requests == 4


async def test_too_many_keys(start: Start) -> None:
    """429, and nothing runs: a key that is forgotten too soon would be paid twice."""
    async with start() as served:
        served.gateway.idempotency._keep = KeepLimits(keys=2, lost_seconds=0.0)
        assert [(await send(served, key))[0] for key in "abc"] == [200, 200, 429]
        assert served.backend.meter.requests == 4


async def test_the_ledgers_place_is_away(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 before anything runs; and an answer that can't be written is told all the same."""

    def away(*_: Any) -> None:
        raise StoreUnavailableError("away")

    async with start() as served:
        monkeypatch.setattr(served.gateway.idempotency._answers, "claim", away)
        assert (await send(served, "a"))[0] == 503
        monkeypatch.undo()
        monkeypatch.setattr(served.gateway.idempotency._answers, "finish", away)
        assert (await send(served, "a"))[0] == 200
        assert code((await send(served, "a"))[2]) == "idempotency_key_in_use"
        assert served.backend.meter.requests == 2


async def test_shutting_down(start: Start) -> None:
    """A call with a key is ended like any other, and its reader told."""
    async with start(SLOW, tpot=0.01, limits=Limits(grace_seconds=0.1)) as served:
        running = asyncio.ensure_future(send(served, "a", BODY | {"thinking_budget": 390}))
        await until(lambda: bool(served.backend.running))
        await served.gateway.stop()
        with suppress(aiohttp.ClientError):
            status, headers, text = await running
            assert (status, code(text), headers["x-should-retry"]) == (503, "shutting_down", "false")
