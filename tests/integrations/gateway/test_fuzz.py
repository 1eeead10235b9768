"""Fuzz: 1,000 requests here, 20,000 with ELASTIC_FUZZ=20000."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from elastic_agent.integrations.gateway.settings import Limits
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount
from elastic_agent.scheduler.ledger.durable.options import LEASE
from tests.integrations.gateway.conftest import Start, until
from tests.integrations.gateway.fuzz import Fuzz, Sent

REQUESTS = int(os.environ.get("ELASTIC_FUZZ", "1000"))
SEED = int(os.environ.get("ELASTIC_FUZZ_SEED", "1"))


@pytest.mark.timeout(3600)
async def test_no_request_breaks_it(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No 500; nothing held afterwards; the ledger = the meter; caps kept; no key in any log or error."""
    caplog.set_level(logging.DEBUG)
    caps = 40 * REQUESTS
    limits = Limits(grace_seconds=5.0, body=100_000, tasks=20)
    ledger = str(tmp_path / "gateway.db")
    reply = Reply(thinking="hm " * 25, solution='so <tool_call>{"name": "f", "arguments": {}}</tool_call>')
    async with start(
        reply, ledger=ledger, limits=limits, context=2000, max_running=16, max_waiting=8, no_keys=False
    ) as served:
        keys = served.gateway.keys
        made = [
            keys.create("alice", Caps(tokens=caps)),
            keys.create("bob", Caps(usd="0.05")),
            keys.create("eve"),
        ]
        keys.revoke("eve")
        secrets = [secret for secret, _ in made]
        async with served.session.get(f"{served.root}/openapi.json") as response:
            described = await response.json()
        fuzz = Fuzz(
            described, SEED, [*secrets[:1] * 12, *secrets[1:2] * 6, secrets[2], "wrong", None], "scripted"
        )
        statuses: Counter[int] = Counter()
        answers: list[str] = []

        async def send(sent: Sent) -> None:
            url = URL(served.root + sent.path, encoded=True)
            async with served.session.request(
                sent.method, url, headers=sent.headers, data=sent.data, allow_redirects=False
            ) as response:
                text = await response.text()
                statuses[response.status] += 1
                assert response.status != 500, (sent, text)
                if response.status >= 400 and sent.method != "HEAD":
                    error = json.loads(text)["error"]
                    assert error["message"], sent
                    assert {"type", "code", "param"} <= set(error), sent
                    answers.append(text)

        async def worker(count: int) -> None:
            for _ in range(count):
                # "wait" waits for what other tasks of its key hold, which may take as long as their lease
                sent, leaves = fuzz.request(), fuzz.random.random() < 0.05
                with suppress(TimeoutError, aiohttp.ServerDisconnectedError):
                    async with asyncio.timeout(
                        fuzz.random.random() * 0.02 if leaves else LEASE + 30
                    ) as limit:
                        await send(sent)
                assert leaves or not limit.expired(), sent

        await asyncio.gather(*(worker(REQUESTS // 10) for _ in range(10)))
        await until(lambda: served.gateway.metrics.running._value.get() == 0)  # type: ignore[attr-defined]
        await served.gateway.tasks.aclose()
        store = served.gateway.schedulers.store
        for _ in range(500):
            levels = [(await store.read_accounts(key.account))[0] for _, key in made[:2]]
            if all(level.held == NOTHING for level in levels) and not served.backend.running:
                break
            await asyncio.sleep(0.02)
        assert [level.held for level in levels] == [NOTHING, NOTHING]
        await store.check()
        served.gateway.main.check()
        settled = [e for e in served.events if e["event"] == "settled"]
        used = [e["used"] for e in settled if e["used"]]
        total = sum(u["thinking"] + u["close"] + u["solution"] + u["discarded"] + u["unknown"] for u in used)
        forced, unknown = (sum(u[name] for u in used) for name in ("forced", "unknown"))
        spent = sum((level.spent for level in levels), Amount())
        assert spent.tokens == total == sum(e["charged"]["tokens"] for e in settled)
        assert total - forced - unknown <= served.backend.meter.output <= total - forced
        assert levels[0].spent.tokens <= caps
        assert levels[1].spent.nano <= 50_000_000
        assert statuses[200] > REQUESTS / 10, statuses
        assert {400, 401, 404} <= set(statuses)
        everything = repr((served.access, served.events, answers)) + caplog.text
        assert not any(secret in everything for secret in secrets)
        print(f"\n{sum(statuses.values())} answers {sorted(statuses.items())}, {len(used)} calls, {spent}")
