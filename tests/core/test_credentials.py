"""Secrets come from files and the environment, and files that hold something are their owner's alone."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

import pytest

from elastic_agent.credentials import add_key_options, checked_key, has_password, ledger_place, make_private
from elastic_agent.credentials import upstream_key as key_of
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="x")
    add_key_options(parser)
    return parser


@pytest.mark.parametrize("given", [["--api-key", "sk-secret"], ["--api-key=sk-secret"]])
def test_no_key_on_the_command_line(
    parser: argparse.ArgumentParser, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused with status 2 and what to do instead; the key is not repeated."""
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(given)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "--api-key-file" in said
    assert "sk-secret" not in said


def test_a_key_from_a_file_or_the_environment(
    parser: argparse.ArgumentParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file wins; a line end at its end, of Windows too, is not the key's."""
    monkeypatch.delenv("ELASTIC_UPSTREAM_KEY", raising=False)
    assert key_of(parser.parse_args([])) is None
    monkeypatch.setenv("ELASTIC_UPSTREAM_KEY", "sk-env")
    assert key_of(parser.parse_args([])) == "sk-env"
    file = tmp_path / "key"
    file.write_bytes(b"sk-file\r\n")
    assert key_of(parser.parse_args(["--api-key-file", str(file)])) == "sk-file"
    file.write_bytes(b"\n")
    with pytest.raises(ValueError, match="is empty"):
        key_of(parser.parse_args(["--api-key-file", str(file)]))


@pytest.mark.parametrize("key", ["sk-a\r\nsk-b", "sk-\x01", "sk a", "sk-\u00e9", "sk-a\n"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    """Refused by name of its place, and never shown."""
    with pytest.raises(ValueError, match="the file: a key is printable ASCII") as raised:
        checked_key(key, "the file")
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("gateway.db", False),
        ("/a/b@c:d.db", False),
        ("postgresql://elastic@db/spend", False),
        ("redis://host:6379/0", False),
        ("postgresql://elastic:pw@db/spend", True),
        ("redis://:pw@host:6379/0", True),
        ("postgresql://db/spend?user=a&password=pw", True),
        ("postgresql://db/spend?sslpassword=pw", True),
        ("http://user:pw@host/v1", True),
        ("http://[broken:pw@host/v1", True),
    ],
)
def test_passwords_in_addresses(url: str, secret: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a command line they are refused, without being repeated; from the environment they are taken."""
    assert has_password(url) is secret
    monkeypatch.setenv("ELASTIC_LEDGER", url)
    assert ledger_place(None) == url
    monkeypatch.delenv("ELASTIC_LEDGER")
    assert ledger_place(None) == "gateway.db"
    if secret:
        with pytest.raises(ValueError, match="ELASTIC_LEDGER") as raised:
            ledger_place(url)
        assert "pw" not in str(raised.value)
    else:
        assert ledger_place(url) == url


@pytest.mark.parametrize(("was", "becomes"), [(None, 0o600), (0o644, 0o600), (0o666, 0o660), (0o400, 0o400)])
def test_private_files(tmp_path: Path, was: int | None, becomes: int) -> None:
    """New ones are their owner's alone; one whose group may write is shared with it on purpose."""
    file = tmp_path / "file"
    if was is not None:
        file.touch()
        file.chmod(was)
    make_private(file)
    assert mode(file) == becomes


async def test_ledgers_and_run_logs_are_private(tmp_path: Path) -> None:
    """The SQLite file, its WAL and its shared memory, also of a file that was there; and a run.jsonl."""
    ledger, log = tmp_path / "spend.db", tmp_path / "run.jsonl"
    for _ in range(2):
        store = open_store(ledger)
        await store.open([Spec("a", tokens=100)])
        assert [mode(tmp_path / f"spend.db{end}") for end in ("", "-wal", "-shm")] == [0o600] * 3
        await store.aclose()
        os.chmod(ledger, 0o644)
    async with BudgetScheduler(log=log):
        pass
    assert mode(log) == 0o600
