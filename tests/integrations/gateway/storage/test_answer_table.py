"""Where answers and the terms of tasks are kept: in memory, SQLite, PostgreSQL and Redis alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks._servers import NoServerError, PostgresServer, RedisServer
from elastic_agent.errors import StoreUnavailableError
from elastic_agent.integrations.gateway.storage.answer_table import (
    AnswerTable,
    Entry,
    FullError,
    KeepLimits,
    open_answer_table,
)
from elastic_agent.integrations.gateway.storage.task_table import open_task_table


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ledger's place of each kind."""
    folder = tmp_path_factory.mktemp("answers")
    if request.param in ("memory", "sqlite"):
        yield "memory://" if request.param == "memory" else str(folder / "ledger.db")
        return
    try:
        server = PostgresServer() if request.param == "postgres" else RedisServer()
    except NoServerError as error:
        pytest.skip(str(error))
    with server:
        yield server.url


@pytest.fixture
def kept(place: str) -> Iterator[AnswerTable]:
    made = open_answer_table(place)
    yield made
    made.close()


def entry(name: str, until: float = 60.0, **more: Any) -> Entry:
    return Entry(f"{time.time_ns()}{name}", more.pop("owner", name), "print", time.time() + until, **more)


def test_a_key_is_taken_once(kept: AnswerTable) -> None:
    """Whoever comes second is told what stands there, byte for byte."""
    one, now = entry("one"), time.time()
    assert kept.claim(one, now, KeepLimits()) is None
    found = kept.claim(one, now, KeepLimits())
    assert found is not None
    assert (found.state, found.fingerprint) == ("running", "print")
    done = Entry(one.digest, one.owner, "print", now + 60, "answered", 503, '{"a": "b"}', True, b"\x00\xff")
    kept.finish(done, KeepLimits())
    assert kept.claim(one, now, KeepLimits()) == done
    kept.release(one.digest)
    assert kept.claim(one, now, KeepLimits()) is None
    kept.release(one.digest)


def test_an_answer_is_forgotten_in_time(kept: AnswerTable) -> None:
    """After its time to live; one that ran to no end so long after it can't run any more."""
    one, two, now = entry("one"), entry("two"), time.time()
    for each in (one, two):
        kept.claim(each, now, KeepLimits())
    kept.finish(Entry(one.digest, one.owner, "print", now + 0.2, "answered"), KeepLimits())
    time.sleep(0.3)
    later = now + 61.0
    kept.sweep(time.time(), KeepLimits())
    assert kept.claim(one, time.time(), KeepLimits()) is None
    assert kept.claim(two, later, KeepLimits(lost_seconds=100.0)) is not None


def test_room_is_each_owners(kept: AnswerTable) -> None:
    """So many keys, and so many bytes; beyond, a key is refused, and an answer not kept."""
    limits, now = KeepLimits(keys=2, answer_bytes=100, owner_bytes=150), time.time()
    name = f"owner{time.time_ns()}"
    mine = [entry(f"m{i}", owner=name) for i in range(3)]
    assert [kept.claim(each, now, limits) for each in mine[:2]] == [None, None]
    with pytest.raises(FullError):
        kept.claim(mine[2], now, limits)
    assert kept.claim(entry("other"), now, limits) is None
    states = []
    for each in mine[:2]:
        kept.finish(Entry(each.digest, name, "print", now + 60, "answered", body=b"x" * 90), limits)
        found = kept.claim(each, now, limits)
        assert found is not None
        states.append(found.state)
    assert states == ["answered", "gone"]
    kept.release(mine[0].digest)
    assert kept.claim(mine[2], now, limits) is None
    kept.finish(Entry(mine[2].digest, name, "print", now + 60, "answered", body=b"x" * 101), limits)
    assert kept.claim(mine[2], now, limits).state == "gone"  # type: ignore[union-attr]


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    """Answers lie in the ledger's file: for its owner's eyes."""
    made = open_answer_table(str(tmp_path / "a.db"))
    made.claim(entry("one"), time.time(), KeepLimits())
    made.close()
    assert (tmp_path / "a.db").stat().st_mode & 0o077 == 0


def test_a_place_that_is_none(tmp_path: Path) -> None:
    """Unknown schemes, and a folder that isn't there."""
    with pytest.raises(Exception, match="answers can't be kept"):
        open_answer_table("ftp://x")
    gone = open_answer_table(str(tmp_path / "no" / "a.db"))
    with pytest.raises(StoreUnavailableError, match="answers can't be reached"):
        gone.claim(entry("one"), time.time(), KeepLimits())
    gone.close()


def test_what_was_said_of_a_task(place: str) -> None:
    """Kept beside the ledger in each place, written over, and forgotten."""
    said = open_task_table(place)
    assert said.get("open/t") is None
    said.put("open/t", "{}")
    said.put("open/t", '{"final_solution": 100}')
    assert said.get("open/t") == '{"final_solution": 100}'
    said.delete("open/t")
    said.delete("open/t")
    assert said.get("open/t") is None
    said.close()
