"""Who spent what: a key asks for its own spend, and `keys list` shows that of all keys."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent import Caps
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.gateway.accounts.keys import Keys
from elastic_agent.scheduler.ledger.stores.protocol import Window
from elastic_agent.scheduler.ledger.stores.transitions import window_end, window_start
from tests.integrations.gateway.conftest import Served, Start


async def me(served: Served, key: str) -> dict[str, Any]:
    async with served.session.get(
        f"{served.gateway.url}/keys/me", headers={"Authorization": f"Bearer {key}"}
    ) as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_a_key_sees_its_own_spend(
    start: Start, ledger: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before its first call; then what the answer's usage says, and what is left; no other key's."""
    keys = Keys(ledger)
    alice, _ = keys.create("alice", Caps(tokens=1000), window="day")
    bob, _ = keys.create("bob")
    async with start(ledger=ledger, no_keys=False) as served:
        fresh = await me(served, alice)
        assert (fresh["object"], fresh["name"], fresh["caps"]) == ("key", "alice", {"tokens": 1000})
        assert (fresh["spent"]["tokens"], fresh["left"]) == (0, {"tokens": 1000})
        assert datetime.fromisoformat(fresh["resets"]) - datetime.now(UTC) <= timedelta(days=1)
        answer = await served.ask(alice, thinking_budget=3)
        used = answer["usage"]["completion_tokens"]
        await served.exact()  # the call is settled behind its answer
        after = await me(served, alice)
        assert after["spent"]["tokens"] >= used > 0
        assert after["left"]["tokens"] == 1000 - after["spent"]["tokens"]
        assert after["models"] == ["scripted"]
        other = await me(served, bob)
        assert (other["name"], other["spent"]["tokens"], other["left"]) == ("bob", 0, {})
        assert "alice" not in json.dumps(other)
        async with served.session.get(f"{served.gateway.url}/keys/me") as response:
            assert response.status == 401
    keys.close()
    assert await asyncio.to_thread(main, ["keys", "list", "--json", "--ledger", ledger]) == 0
    listed = {key["name"]: key for key in json.loads(capsys.readouterr().out)}
    assert listed["alice"]["spent"] == after["spent"]
    assert listed["alice"]["left"] == after["left"]
    monkeypatch.setenv("COLUMNS", "120")
    assert await asyncio.to_thread(main, ["keys", "list", "--ledger", ledger]) == 0
    table = capsys.readouterr().out
    assert f"{after['spent']['tokens']:,} tokens" in table
    assert "1,000 tokens a day" in table
    assert alice not in table


def test_no_keys_are_said_to_be_none(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--ledger", str(tmp_path / "new.db")]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "keys create" in said.err


@given(st.sampled_from(["day", "month"]), st.integers(0, 4_000_000_000))
def test_a_window_ends_where_the_next_begins(window: Window, now: int) -> None:
    """The end is the start of another window, and nothing lies between."""
    start, end = window_start(window, now), window_end(window, now)
    assert start <= now < end
    assert window_start(window, end) == end
    assert window_start(window, end - 1) == start
