"""What is sent with every request to a vLLM server, and through which proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web

from elastic_agent.backends.load import load_backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.served.connection import Connection, extra_fields
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.errors import InvalidValueError, UnknownModelError
from elastic_agent.generation.generate import generate
from tests.wire import Engine, Wire, serve_in_thread

URL = "http://model.example:8000/v1"


class Watched(Wire):
    """A server that notes the headers of each request, and to which host it was."""

    def add_routes(self, app: web.Application) -> None:
        self.seen: list[tuple[str, Mapping[str, str]]] = []

        async def note(request: web.Request, _: web.StreamResponse) -> None:
            self.seen.append((request.path, dict(request.headers)))

        app.on_response_prepare.append(note)


async def test_headers_fields_and_the_proxy_reach_every_request() -> None:
    """The list of models, both passes and the counters: one connection. Nothing of it lifts a limit."""
    upstream = ScriptedBackend(Reply("a b c d e f", "g h i"))
    async with Watched(upstream, engine=Engine(), key="sesame") as wire:
        client = VllmServerBackend(
            "scripted",
            URL,
            codec=upstream.codec,
            api_key="sesame",
            headers={"X-Team": "blue"},
            extra_body={"min_p": 0.05},
            proxy=wire.base_url.removesuffix("/v1"),
        )
        await client.ready()
        said = await generate(client, "why", Budget(3, 2))
        await client.aclose()
    assert (said.usage.thinking, said.usage.solution) == (3, 2)
    assert {path for path, _ in wire.seen} >= {"/v1/models", "/v1/completions"}
    for _, headers in wire.seen:
        assert headers["X-Team"] == "blue"
        assert headers["Authorization"] == "Bearer sesame"
        assert headers["Host"] == "model.example:8000"
    assert [body["min_p"] for body in wire.requests] == [0.05, 0.05]


def test_the_tokenizer_is_looked_for_over_the_same_connection() -> None:
    """The first question to a server, before there is an event loop."""
    with serve_in_thread(ScriptedBackend(), make=Watched) as wire:
        assert isinstance(wire, Watched)
        with pytest.raises(UnknownModelError, match="no tokenizer"):
            load_backend("scripted", base_url=URL, headers={"X-Team": "blue"}, proxy=wire.base_url[:-3])
        ((_, headers),) = wire.seen
    assert (headers["X-Team"], headers["Host"]) == ("blue", "model.example:8000")


@pytest.mark.parametrize(
    ("base_url", "given", "proxy"),
    [
        (URL, None, "http://office:3128"),
        ("https://model.example/v1", None, None),
        ("http://inside.example/v1", None, None),
        ("http://localhost:8000/v1", None, None),
        ("http://127.0.0.1:8000/v1", None, None),
        (URL, "", None),
        (URL, "http://me:pw@other:1", "http://me:pw@other:1"),
    ],
)
def test_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch, base_url: str, given: str | None, proxy: str | None
) -> None:
    """Taken for its scheme, not where NO_PROXY names the host, not to this machine; one's own goes first."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://office:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert Connection.to(base_url, None, None, given).proxy == proxy


def test_a_header_of_ones_own_replaces_the_keys() -> None:
    """One Authorization; and no secret is shown."""
    made = Connection.to(URL, "sesame", {"authorization": "Basic abc"}, "http://me:pw@p:1")
    assert made.headers == {"authorization": "Basic abc"}
    assert not any(secret in repr(made) for secret in ("sesame", "abc", "pw"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"headers": {"X-Key": "se\r\nX: same"}}, "one line of ASCII"),
        ({"headers": {"X Key": "sesame"}}, "can't be sent"),
        ({"headers": {"Content-Length": "sesame"}}, "can't be sent"),
        ({"proxy": "sesame:3128"}, "proxy= is a URL"),
    ],
)
def test_what_cannot_be_sent_is_refused_without_showing_it(options: dict[str, Any], says: str) -> None:
    """Before anything is asked; a header's value and a proxy's address may hold a secret."""
    with pytest.raises(InvalidValueError, match=says) as refused:
        VllmServerBackend("m", URL, codec=ScriptedBackend().codec, **options)
    assert "sesame" not in str(refused.value)
    assert "same" not in str(refused.value)


@pytest.mark.parametrize("name", ["max_tokens", "prompt", "stream", "seed", "n", "best_of", "echo", "stop"])
def test_fields_that_would_break_a_budget_are_refused(name: str) -> None:
    """What the call says itself, and what would serve more than one answer."""
    with pytest.raises(InvalidValueError, match=f"extra_body: .*{name}"):
        extra_fields({name: 2})
