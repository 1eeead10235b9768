"""A gateway without keys is one on purpose, for this machine alone; and no key is ever written down."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.gateway.accounts.keys import Keys
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, is_loopback
from tests.integrations.gateway.conftest import Start
from tests.integrations.gateway.ops.test_limits import connect
from tests.integrations.gateway.test_processes import process


async def test_a_ledger_without_keys_opens_to_nobody(start: Start, tmp_path: Path) -> None:
    """An empty ledger, one in another directory, or one that lost its keys: no start without the flag, on
    loopback neither, and the error says what to type."""
    async with start() as served:
        upstreams = served.gateway.settings.upstreams
        for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", ""):
            gateway = Gateway(
                GatewaySettings(upstreams, ledger=str(tmp_path / "empty.db"), host=host, port=0)
            )
            with pytest.raises(ValueError, match=r"keys create NAME.*--no-keys"):
                await gateway.start()
        for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.com", "localhost.example.com"):
            with pytest.raises(ValueError, match="this machine alone"):
                Gateway(GatewaySettings(upstreams, host=host, no_keys=True))


async def test_keys_and_no_keys_is_a_contradiction(start: Start, ledger: str) -> None:
    """`--no-keys` on a ledger that has keys: somebody means the wrong one."""
    keys = Keys(ledger)
    keys.create("alice")
    async with start() as served:
        gateway = Gateway(
            GatewaySettings(served.gateway.settings.upstreams, ledger=ledger, port=0, no_keys=True)
        )
        with pytest.raises(ValueError, match="has keys"):
            await gateway.start()
    keys.close()


async def test_keys_that_get_lost_while_it_runs(start: Start, tmp_path: Path) -> None:
    """The store forgets them all: nobody gets in any more, with a key or without."""
    ledger = tmp_path / "gateway.db"
    keys = Keys(str(ledger))
    alice, _ = keys.create("alice")
    async with start(ledger=str(ledger), no_keys=False) as served:
        served.gateway.keys._remember = 0.0
        assert "choices" in await served.ask(alice, thinking_budget=3)
        with sqlite3.connect(ledger) as file:
            file.execute("DELETE FROM elastic_keys")
        file.close()
        for key, code in ((alice, "invalid_api_key"), (None, "no_key")):
            assert (await served.ask(key))["error"]["code"] == code
    keys.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host: localhost"], 200),
        (["Host: LOCALHOST:1234"], 200),
        (["Host: 127.0.0.1:80"], 200),
        (["Host: [::1]:80"], 200),
        (["Host: localhost", "Origin: http://127.0.0.1:3000"], 200),
        (["Host: evil.example"], 403),
        (["Host: evil.example:8100"], 403),
        (["Host: localhost.evil.example"], 403),
        (["Host: 127.0.0.1.evil.example"], 403),
        (["Host: evil.example@localhost"], 403),
        (["Host: localhost:x"], 403),
        (["Host: localhost", "Host: evil.example"], 403),
        (["Host: "], 403),
        ([], 403),
        (["Host: localhost", "Origin: https://evil.example"], 403),
        (["Host: localhost", "Origin: null"], 403),
    ],
)
async def test_a_foreign_host_is_refused(start: Start, headers: list[str], status: int) -> None:
    """A web page whose name was bound to 127.0.0.1 reaches nothing, the free routes included."""
    async with start() as served:
        for route in ("/v1/models", "/metrics", "/health"):
            reader, writer = await connect(served)
            lines = [f"GET {route} HTTP/1.1", *headers, "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode())
            answer = (await asyncio.wait_for(reader.read(), 20)).decode()
            writer.close()
            # HTTP itself asks for exactly one Host: a parser may say so first
            refused = ("403", "400") if len(headers) != 1 else ("403",)
            assert answer.split()[1] in ((str(status),) if status == 200 else refused), answer


async def test_with_keys_any_host_will_do(start: Start) -> None:
    """Behind a proxy, under whatever name: the key is what counts."""
    async with start(no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice")
        headers = {"Host": "api.example", "Authorization": f"Bearer {key}"}
        async with served.session.get(f"{served.gateway.url}/models", headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
    + [(host, False) for host in ("::", "", "10.0.0.1", "localhost.", "local", "127.1")],
)
def test_loopback(host: str, own: bool) -> None:
    """Only what nobody else can reach."""
    assert is_loopback(host) is own


SECRET = "ea-SECRETSECRETSECRET"


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET\x01\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET\x00\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET\r\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer\r\nSECRET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nBearer SECRET\r\n\r\n",
        b"POST /v1/chat/completions?key=SECRET HTTP/1.1 x\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nSECRET",
        b"SECRET SECRET SECRET\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: SECRET\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET" + b"a" * 40_000,
        b"GET http://[SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_a_request_that_is_no_http_is_told_to_nobody(
    start: Start, sent: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """400 in JSON; what it held, a key or a prompt, is neither logged nor sent back."""
    caplog.set_level(logging.DEBUG)
    async with start() as served:
        reader, writer = await connect(served)
        writer.write(sent.replace(b"SECRET", SECRET.encode()))
        head, _, body = (await asyncio.wait_for(reader.read(), 20)).decode().partition("\r\n\r\n")
        writer.close()
        assert head.split()[1] in ("400", "404"), head
        assert "application/json" in head
        assert '"error"' in body
        assert "choices" in await served.ask(thinking_budget=3)
    said = capfd.readouterr()
    assert SECRET not in "".join([head, body, caplog.text, said.out, said.err, repr(served.access)])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag is needed, its line stands in capitals, and its files are its owner's alone; secrets among the
    arguments are refused."""
    ledger, log = tmp_path / "gateway.db", tmp_path / "run.jsonl"
    assert main(["serve", "--port", "0", "--ledger", str(ledger)]) == 2
    assert "--no-keys" in capsys.readouterr().err
    serve = (
        "elastic_agent.integrations.commands.main",
        "serve",
        "--port",
        0,
        "--ledger",
        ledger,
        "--log",
        log,
    )
    with process(*serve, "--no-keys") as gateway:
        assert gateway.end() == 0
        assert "NO KEYS: EVERY PROGRAM AND USER OF THIS MACHINE CAN SPEND HERE" in "".join(gateway.said)
    assert {stat.S_IMODE(os.stat(file).st_mode) for file in tmp_path.iterdir()} == {0o600}
    for arguments in (
        ["serve", "--no-keys", "--ledger", "postgresql://me:hunter2@127.0.0.1:1/spend"],
        ["keys", "list", "--ledger", "redis://:hunter2@127.0.0.1:1/0"],
        ["serve", "--no-keys", "--base-url", "http://me:hunter2@127.0.0.1:1/v1"],
        ["serve", "--no-keys", "--upstream", "m=http://me:hunter2@127.0.0.1:1/v1"],
        ["ask", "--base-url", "http://me:hunter2@127.0.0.1:1/v1", "hello"],
    ):
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert "ps" in said
        assert "hunter2" not in said
