"""Keys with caps, and tasks that clients name: who pays, how much, and what is told when it is too much."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from elastic_agent.integrations.gateway.accounts.keys import PREFIX, Keys, digest
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits
from tests.integrations.gateway.conftest import HELLO, Start, until

SLOW = Reply(thinking="hm " * 400, solution="so it is 42")


async def test_a_key_is_asked_for_once_there_is_one(start: Start, ledger: str) -> None:
    """Each key has its account; wrong, revoked and missing keys are 401; none is ever written down."""
    keys = Keys(ledger)
    alice, _ = keys.create("alice", Caps(tokens=10_000))
    bob, _ = keys.create("bob")
    async with start(ledger=ledger, no_keys=False) as served:
        served.gateway.keys._remember = 0.0
        for key in (alice, bob, bob):
            assert "choices" in await served.ask(key, thinking_budget=3)
        accounts = {
            name: await served.gateway.schedulers.store.read_accounts(name)
            for name in served.gateway.schedulers._shared
        }
        assert sorted(name.split("/")[1] for name in accounts) == ["alice", "bob"]
        for key, code in (
            (None, "no_key"),
            ("ea-nonsense", "invalid_api_key"),
            (alice + "x", "invalid_api_key"),
        ):
            status, headers, body = await served.post("/chat/completions", {"messages": HELLO}, key)
            assert (status, body["error"]["code"]) == (401, code)
            assert headers["WWW-Authenticate"] == "Bearer"
        keys.revoke("bob")
        status, _, body = await served.post("/chat/completions", {"messages": HELLO}, bob)
        assert (status, body["error"]["code"]) == (401, "revoked_api_key")
        async with served.session.get(f"{served.root}/health") as response:
            assert response.status == 200
        again, key = keys.create("bob", Caps(tokens=5), window="day")
        assert again != bob
        assert key.account not in accounts
        assert [key.revoked for key in keys.list() if key.name == "bob"] == [True, False]
        with pytest.raises(ValueError, match="there is a key called 'bob'"):
            keys.create("bob")
        assert PREFIX not in repr(keys.list())
        await served.exact()
        assert PREFIX not in repr((served.access, served.events))
    keys.close()


async def test_a_key_over_its_cap(start: Start) -> None:
    """402 with the numbers when nothing will give room; 429 with Retry-After while something may."""
    async with start(SLOW, tpot=0.002, no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(tokens=600))
        ask = {"messages": HELLO, "thinking_budget": 400, "solution_budget": 100}
        first = asyncio.ensure_future(served.post("/chat/completions", ask, key))
        await until(lambda: served.backend.running > 0)
        status, headers, body = await served.post(
            "/chat/completions", {"messages": HELLO, "thinking_budget": 0, "solution_budget": 150}, key
        )
        assert (status, body["error"]["code"]) == (429, "cap_exceeded"), body
        assert int(headers["Retry-After"]) >= 1
        assert body["error"]["needed"]["tokens"] == 151
        assert (await first)[0] == 200
        status, _, body = await served.post(
            "/chat/completions", {"messages": HELLO, "thinking_budget": 0, "solution_budget": 300}, key
        )
        assert status == 402, body
        assert body["error"]["type"] == "insufficient_quota"
        assert body["error"]["needed"]["tokens"] == 301
        assert body["error"]["available"]["tokens"] < 301
        spent = (await served.settled()).tokens
        assert spent <= 600
        await served.exact()


async def test_a_full_queue_is_429(start: Start) -> None:
    """`max_waiting` reached: refused at once, with a time to come back."""
    async with start(SLOW, tpot=0.003, max_running=1, max_waiting=1) as served:
        asks = [
            asyncio.ensure_future(served.post("/chat/completions", {"messages": HELLO})) for _ in range(6)
        ]
        answers = await asyncio.gather(*asks)
        codes = [status for status, _, _ in answers]
        assert set(codes) <= {200, 429}
        assert codes.count(200) >= 1
        refused = next(found for found in answers if found[0] == 429)
        assert refused[2]["error"]["code"] == "queue_full"
        assert int(refused[1]["Retry-After"]) >= 1
        await served.exact()


async def test_money_needs_a_price(start: Start) -> None:
    """A key with a cap in dollars on a model that nobody prices fails closed, and says so."""
    async with start(price=None, no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(usd="0.01"))
        status, _, body = await served.post("/chat/completions", {"messages": HELLO}, key)
        assert (status, body["error"]["code"]) == (400, "price_unknown")
        assert served.backend.meter.requests == 0


async def test_a_task_from_its_opening_to_its_end(start: Start, ledger: str) -> None:
    """Its calls share its caps, its report adds up, and after its end it takes no more."""
    async with start(ledger=ledger) as served:
        status, _, task = await served.post("/tasks", {"tokens": 200, "expect": {"step": 3}})
        assert status == 201, task
        assert task["caps"] == {"tokens": 200}
        for _ in range(3):
            body = await served.ask(
                headers={"X-Elastic-Task": task["id"], "X-Elastic-Kind": "step"}, solution_budget=20
            )
            assert body["budget"]["task"] == task["id"]
        async with served.session.get(f"{served.gateway.url}/tasks/{task['id']}") as response:
            report = await response.json()
        assert len(report["calls"]) == 3
        assert body["budget"]["left"]["tokens"] <= 200 - 3 * 6
        async with served.session.delete(f"{served.gateway.url}/tasks/{task['id']}") as response:
            ended = await response.json()
        assert ended["closed"]
        assert served.backend.meter.output <= 200
        status, _, body = await served.post(
            "/chat/completions", {"messages": HELLO}, X_Elastic_Task=task["id"]
        )
        assert (status, body["error"]["code"]) == (410, "task_closed")
        async with served.session.get(f"{served.gateway.url}/tasks/{task['id']}") as response:
            report = await response.json()
        assert report["spent"]["tokens"] == served.backend.meter.output + sum(
            event["used"].get("forced", 0) for event in served.events if event["event"] == "settled"
        )
        assert report["held"]["tokens"] == 0


async def test_an_implicit_task(start: Start) -> None:
    """An id with caps opens it, the id alone goes on with it; other caps and unknown ids are refused."""
    async with start() as served:
        name = {"X-Elastic-Task": "report-7"}
        caps = name | {"X-Elastic-Caps": "tokens=300, usd=0.01, seconds=60"}
        assert (await served.ask(headers=caps, solution_budget=20))["budget"]["task"] == "report-7"
        assert "choices" in await served.ask(headers=caps, solution_budget=20)
        assert "choices" in await served.ask(headers=name, solution_budget=20)
        for headers, status in (
            (name | {"X-Elastic-Caps": "tokens=301"}, 400),
            (name | {"X-Elastic-Caps": "tokens=many"}, 400),
            (name | {"X-Elastic-Caps": "tokens=-5"}, 400),
            (name | {"X-Elastic-Caps": "tokens=0"}, 400),
            (name | {"X-Elastic-Caps": "tokens=0, tokens=5000"}, 400),
            (name | {"X-Elastic-Caps": "tokens=99999999999999999999999"}, 400),
            (name | {"X-Elastic-Caps": "usd=1e-999999999"}, 400),
            (name | {"X-Elastic-Caps": "usd=1e999999999"}, 400),
            (name | {"X-Elastic-Caps": "seconds=inf"}, 400),
            (name | {"X-Elastic-Caps": "usd=" + "1" * 5000}, 400),
            ({"X-Elastic-Task": "nobody"}, 404),
            ({"X-Elastic-Task": "a b"}, 400),
            ({"X-Elastic-Caps": "tokens=5"}, 400),
            ({"X-Elastic-Task": "small", "X-Elastic-Caps": "tokens=3"}, 402),
        ):
            sent = {key.replace("-", "_"): value for key, value in headers.items()}
            got, _, body = await served.post("/chat/completions", {"messages": HELLO}, **sent)
            assert got == status, (headers, body)
        while True:
            got, _, body = await served.post(
                "/chat/completions", {"messages": HELLO, "solution_budget": 20}, X_Elastic_Task="report-7"
            )
            if got != 200:
                break
        assert (got, body["error"]["code"]) == (402, "cap_exceeded")
        assert served.backend.meter.output <= 300


async def test_tasks_of_other_keys_are_unknown(start: Start) -> None:
    """A task is its key's: another key neither sees nor uses nor closes it."""
    async with start(no_keys=False) as served:
        alice, _ = served.gateway.keys.create("alice")
        bob, _ = served.gateway.keys.create("bob")
        _, _, task = await served.post("/tasks", {"tokens": 500}, alice)
        url = f"{served.gateway.url}/tasks/{task['id']}"
        for key, status in ((bob, 404), (alice, 200)):
            async with served.session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
                assert response.status == status
        status, _, _ = await served.post(
            "/chat/completions", {"messages": HELLO}, bob, X_Elastic_Task=task["id"]
        )
        assert status == 404


async def test_two_gateways_keep_one_task(start: Start, ledger: str) -> None:
    """Opened at one, used at both, at or under its cap at the meters of both; ended for both."""
    async with start(ledger=ledger) as one, start(ledger=ledger) as two:
        _, _, task = await one.post("/tasks", {"tokens": 300})
        name = {"X-Elastic-Task": task["id"]}
        for _ in range(40):
            for served in (one, two):
                await served.ask(headers=name, solution_budget=20, thinking_budget=10)
        assert 200 <= one.backend.meter.output + two.backend.meter.output <= 300
        assert two.backend.meter.output > 0
        async with two.session.delete(f"{two.gateway.url}/tasks/{task['id']}") as response:
            assert response.status == 200
        status, _, _ = await one.post("/chat/completions", {"messages": HELLO}, X_Elastic_Task=task["id"])
        assert status == 410


async def test_an_idle_task_is_closed(start: Start) -> None:
    """Nobody used it for the time: it is closed on the ledger, and lets go of its thread."""
    async with start(limits=Limits(task_idle_seconds=0.2, grace_seconds=0.1)) as served:
        await served.ask(headers={"X-Elastic-Task": "a", "X-Elastic-Caps": "tokens=100"})
        assert len(served.gateway.tasks) == 1
        await until(lambda: not served.gateway.tasks)
        for _ in range(100):
            status, _, body = await served.post("/chat/completions", {"messages": HELLO}, X_Elastic_Task="a")
            if status == 410:
                break
            await asyncio.sleep(0.02)
        assert status == 410, body
        await until(lambda: not served.gateway.schedulers._shared)


async def test_not_open_to_the_network_without_a_key(start: Start) -> None:
    """It refuses to start, and says how to make a key."""
    async with start() as served:
        settings = GatewaySettings(served.gateway.settings.upstreams, host="0.0.0.0", port=0)
        with pytest.raises(ValueError, match="keys create"):
            await Gateway(settings).start()


def test_what_is_stored_is_no_key(tmp_path: Path) -> None:
    """The file has a digest; from it nobody gets in."""
    file = tmp_path / "gateway.db"
    keys = Keys(str(file))
    secret, key = keys.create("alice", Caps(usd=5), window="month")
    assert len(secret) > 40
    assert key.digest == digest(secret)
    keys.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in stored
    assert digest(secret).encode() in stored

    async def find(key: str) -> Any:
        return await Keys(str(file)).find(key)

    assert asyncio.run(find(secret)) == key
    assert asyncio.run(find(digest(secret))) is None


async def test_another_process_knows_what_was_said_of_a_task(start: Start, tmp_path: Path) -> None:
    """Whichever worker a request lands on, the task is the same; one process ends it for all."""
    ledger = str(tmp_path / "spend.db")
    async with start(ledger=ledger) as one, start(ledger=ledger, backend=one.backend) as two:
        said = {"id": "t", "tokens": 300, "final_solution": 100, "on_exhausted": "raise"}
        assert (await one.post("/tasks", said))[0] == 201
        asked: dict[str, Any] = {"thinking_budget": 20, "solution_budget": 60}
        assert (await two.ask(headers={"X-Elastic-Task": "t"}, **asked))["choices"]
        here = two.gateway.tasks._open["open/t"].result().task
        assert here.on_exhausted == "raise"
        assert here.state.final_answer.given == 100
        async with two.session.delete(f"{two.gateway.url}/tasks/t") as response:
            assert (await response.json())["closed"]
        assert (await one.ask(headers={"X-Elastic-Task": "t"}, **asked))["error"]["code"] == "task_closed"


async def test_429_says_when_the_holder_should_end(start: Start) -> None:
    """By the speed that was seen: clients that ask again within a second, as told, give up too soon."""
    async with start(Reply(solution="so " * 400), tpot=0.01, no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(tokens=1_000))
        await served.ask(key, thinking_budget=0, solution_budget=20)  # the speed is seen
        holder = asyncio.ensure_future(served.ask(key, thinking_budget=0, solution_budget=600))
        await until(lambda: served.backend.running > 0)
        status, headers, _ = await served.post(
            "/chat/completions", {"messages": HELLO, "thinking_budget": 0, "solution_budget": 600}, key
        )
        assert status == 429
        assert 2 <= int(headers["Retry-After"]) <= 8
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


async def test_a_request_of_its_own_gets_its_solution_or_nothing(start: Start) -> None:
    """Where both don't fit, thinking gets what the solution leaves, as the answer says; else it is a 402."""
    async with start(no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(tokens=100))
        answer = await served.ask(key, thinking_budget=60, solution_budget=60)
        assert answer["budget"]["calls"][0]["granted"] == {"thinking": 39, "solution": 60}
        status, _, _ = await served.post("/chat/completions", {"messages": HELLO, "solution_budget": 60}, key)
        assert status == 402
        await served.exact()
