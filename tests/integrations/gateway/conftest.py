"""A gateway on a real port, in front of a scripted model behind vLLM's wire."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits, Upstream
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.prices import Price
from tests.wire import Engine, Faults, Wire

HELLO = [{"role": "user", "content": "hello there"}]
TALK = Reply(thinking="hm " * 60, solution="so it is 42")
PRICE = Price("1.00", "2.00")


def shared_codec() -> ScriptedCodec:
    """A codec with words that every process numbers alike."""
    codec = ScriptedCodec()
    codec.encode("hm hm so it is 42 so it")
    return codec


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes about by itself."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


@dataclass
class Served:
    """A gateway and all around it.

    Attributes:
        backend: the model; its meter is the ground truth.
        access: the access log.
        events: the scheduler's.
    """

    gateway: Gateway
    backend: ScriptedBackend
    wire: Wire
    session: aiohttp.ClientSession
    access: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> str:
        """Without `/v1`."""
        return self.gateway.url.removesuffix("/v1")

    async def post(
        self, path: str, body: Any, key: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of a POST; headers as `X_Elastic_Task="a"`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        async with self.session.post(f"{self.gateway.url}{path}", json=body, headers=sent) as response:
            return response.status, dict(response.headers), await response.json()

    async def ask(self, key: str | None = None, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """A chat answer's JSON, or the error's."""
        given = {name.replace("-", "_"): value for name, value in (headers or {}).items()}
        return (await self.post("/chat/completions", {"messages": HELLO, **body}, key, **given))[2]

    async def settled(self) -> Amount:
        """What the ledger says was spent in all, once nothing is held any more and all is written."""
        for _ in range(500):
            accounts = [scheduler.name for scheduler in self.gateway.schedulers._by_root.values()]
            levels = [(await self.gateway.schedulers.store.read_accounts(name))[0] for name in accounts]
            live = [one.durable.holds.live for one in self.gateway.schedulers._by_root.values()]
            if not any(level.held.tokens or level.held.nano for level in levels) and not any(live):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(f"still held: {levels}")
        self.gateway.main.check()
        await self.gateway.schedulers.store.check()
        return sum((level.spent for level in levels), Amount())

    async def exact(self) -> None:
        """The ledger says what the meter says, forced closes aside, which no meter counts as output."""
        spent = await self.settled()
        forced = sum(event["used"].get("forced", 0) for event in self.events if event["event"] == "settled")
        assert spent.tokens == self.backend.meter.output + forced

    async def covered(self) -> None:
        """What the meter counts is at or under what the ledger says."""
        assert self.backend.meter.output <= (await self.settled()).tokens


Start = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def serving(
    reply: Reply | Callable[[str], Reply] = TALK,
    *,
    tpot: float = 0.0,
    faults: Faults | None = None,
    embedded: bool = False,
    limits: Limits | None = None,
    price: Price | None = PRICE,
    context: int = 32_768,
    upstream_key: str | None = None,
    backend: ScriptedBackend | None = None,
    engine: Engine | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """A gateway for the length of a block."""
    async with AsyncExitStack() as stack:
        codec = shared_codec() if backend is None else backend.codec
        backend = backend or ScriptedBackend(reply, tpot=tpot, codec=codec, context_length=context)
        backend.guided = not embedded
        wire = await stack.enter_async_context(Wire(backend, faults=faults, key=upstream_key, engine=engine))
        remote = VllmServerBackend("scripted", wire.base_url, codec=codec, api_key=upstream_key)
        stack.push_async_callback(remote.aclose)
        upstream = Upstream("scripted", backend if embedded else remote, price=price)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        events: list[dict[str, Any]] = []
        access: list[dict[str, Any]] = []
        settings = {
            "port": 0,
            "limits": limits or Limits(grace_seconds=2.0),
            "log": events.append,
            **settings,
        }
        gateway = Gateway(
            GatewaySettings([upstream], **{"no_keys": True, "watchdog": True, **settings}), access.append
        )
        if not gateway.settings.no_keys and not gateway.keys.list():
            gateway.keys.create("somebody")  # a gateway that asks for keys starts with one at least
        await stack.enter_async_context(gateway)
        if not gc.get_freeze_count():  # as `serve` does: a collection of what other tests keep is no stall
            gc.freeze()
            stack.callback(gc.unfreeze)
        yield Served(gateway, backend, wire, session, access, events)
        # Client, gateway and model share this loop: what counts is what a request of the gateway did
        assert not [stall for stall in gateway.stalls if stall.request]


@pytest.fixture
def start() -> Start:
    """Start a gateway: `async with start(...) as served`."""
    return serving
