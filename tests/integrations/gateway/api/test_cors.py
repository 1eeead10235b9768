"""Web pages of other hosts: a browser lets those pages read answers that `--cors` names, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.gateway.settings import GatewaySettings, Upstream
from tests.integrations.gateway.conftest import HELLO, Start

APP = "https://app.example.com"


async def test_a_preflight_needs_no_key(start: Start) -> None:
    """A browser asks before it sends a key, and learns what the page may send."""
    async with start(no_keys=False, cors=(APP,)) as served:
        asked = {
            "Origin": APP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        }
        async with served.session.options(
            f"{served.gateway.url}/chat/completions", headers=asked
        ) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == APP
            assert response.headers["Access-Control-Allow-Headers"] == asked["Access-Control-Request-Headers"]
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in response.headers
        asked["Origin"] = "https://evil.example.com"
        async with served.session.options(
            f"{served.gateway.url}/chat/completions", headers=asked
        ) as response:
            assert response.status == 401
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(("cors", "allowed"), [((APP,), APP), (("*",), "*"), ((), None)])
async def test_answers_streams_and_errors_can_be_read(
    cors: tuple[str, ...], allowed: str | None, start: Start
) -> None:
    """All of them, or a page sees a network error where the gateway said why."""
    async with start(no_keys=False, cors=cors) as served:
        key, _ = served.gateway.keys.create("alice")
        url, headers = f"{served.gateway.url}/chat/completions", {"Origin": APP, "x-api-key": key}
        for body, status in (({}, 200), ({"stream": True}, 200), ({"temperature": 9}, 400)):
            sent: dict[str, Any] = {"messages": HELLO, **body}
            async with served.session.post(url, json=sent, headers=headers) as response:
                assert response.status == status
                assert response.headers.get("Access-Control-Allow-Origin") == allowed
                assert ("Origin" in response.headers.get("Vary", "")) == bool(cors)
                assert "Access-Control-Allow-Credentials" not in response.headers


async def test_head_is_a_get_without_a_body(start: Start) -> None:
    """Some clients ask with it whether a server is there."""
    async with start() as served, served.session.head(f"{served.gateway.url}/models") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(
    ("origin", "no_keys", "words"),
    [
        ("app.example.com", False, "is no origin"),
        ("https://app.example.com/", False, "is no origin"),
        ("*", True, "is no origin"),
        (APP, True, "could spend"),
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(origin: str, no_keys: bool, words: str) -> None:
    """A browser compares letter by letter; without keys, pages of this machine alone are let in."""
    upstream = Upstream("scripted", ScriptedBackend())
    with pytest.raises(ValueError, match=words):
        GatewaySettings([upstream], no_keys=no_keys, cors=[origin])
    GatewaySettings([upstream], no_keys=no_keys, cors=["http://localhost:3000"])
