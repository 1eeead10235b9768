"""A reload: other models, prices and limits from the next request on, and no running request is dropped."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import ConfigError
from elastic_agent.integrations.commands.serve_config import SCHEMA, ServeConfig
from elastic_agent.integrations.commands.serve_process import Reload
from elastic_agent.integrations.gateway.settings import Limits, Upstream
from elastic_agent.scheduler.ledger.prices import Price

from .conftest import HELLO, Start, until

LONG = Reply(thinking="hm " * 100, solution="so it is 42")


def charge(event: dict[str, Any], input: float, output: float) -> float:
    """Dollars by the tokens of an event and prices per million."""
    used = event["used"]
    made = used["thinking"] + used["forced"] + used["solution"]
    return float(input * used["input"] + output * made) / 1e6


class Closable(ScriptedBackend):
    """A model that notes when it is closed."""

    gone = False

    async def aclose(self) -> None:
        self.gone = True
        await super().aclose()


async def test_running_requests_end_on_the_model_that_a_reload_took_away(start: Start) -> None:
    """The stream that runs ends whole and at the old price, the next request gets the new model and
    its price, and the old model is closed once it is unused."""
    old = Closable(LONG, tpot=0.002)
    async with start(
        backend=old, embedded=True, price=Price("1", "2"), limits=Limits(idle_seconds=0.2)
    ) as served:
        gateway = served.gateway
        asked = {"messages": HELLO, "thinking_budget": 100, "solution_budget": 20, "stream": True}
        async with served.session.post(f"{gateway.url}/chat/completions", json=asked) as response:
            await response.content.readline()
            new = ScriptedBackend(Reply(thinking="hm", solution="no 17"), model="other")
            await gateway.reload([Upstream("other", new, price=Price("0", "100"))], Limits(choices=1))
            said = await served.ask(model="other", solution_budget=20)
            assert said["choices"][0]["message"]["content"] == "no 17"
            assert not old.gone
            rest = (await response.read()).decode()
        assert "42" in rest
        assert rest.endswith("data: [DONE]\n\n")
        settled = {event["model"]: event for event in served.events if event["event"] == "settled"}
        assert settled["scripted"]["charged"]["usd"] == pytest.approx(
            charge(settled["scripted"], 1, 2), rel=0.02
        )
        assert settled["other"]["charged"]["usd"] == pytest.approx(charge(settled["other"], 0, 100), abs=1e-4)
        assert (await served.ask(model="scripted"))["error"]["code"] == "model_not_found"
        assert (await served.ask(n=2))["error"]["message"].startswith("n: at most 1 ")
        await until(lambda: old.gone)


async def test_limits_of_bodies_and_connections_are_reloaded(start: Start) -> None:
    async with start(limits=Limits(body=2000)) as served:
        big = "hello " * 500
        upstreams = served.gateway.settings.upstreams
        assert (await served.ask(messages=[{"role": "user", "content": big}]))["error"]["code"] == (
            "request_too_large"
        )
        await served.gateway.reload(upstreams, Limits(body=20_000, connections=7, line=400))
        said = await served.ask(messages=[{"role": "user", "content": big}], solution_budget=8)
        assert said["choices"]
        assert served.gateway.connections.most == 7
        async with (
            aiohttp.ClientSession() as fresh,  # a new connection, under the new limits
            fresh.get(f"{served.root}/health", headers={"X": "a" * 500}) as response,
        ):
            assert response.status == 400


@pytest.mark.parametrize("why", ["unreadable", "port", "models"])
async def test_a_config_that_cannot_be_used_is_refused_and_the_old_one_stays(
    start: Start, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    base: dict[str, Any] = {"upstreams": [{"name": "scripted"}]}

    def read() -> ServeConfig:
        if why == "unreadable":
            raise ConfigError("gateway.yaml: there is no field prot: did you mean port?")
        changed = {"port": 9} if why == "port" else {"upstreams": [{"name": "no-such-model"}]}
        return SCHEMA.check(base | changed)

    async with start() as served:
        before = dict(served.gateway.upstreams)
        await Reload(served.gateway, SCHEMA.check(base), read)()
        assert served.gateway.upstreams == before
        assert (await served.ask(solution_budget=8))["choices"]
    said = capsys.readouterr().err
    assert "the new config is refused, and the old one stays" in said
    expected = {"unreadable": "prot", "port": "port: can't change", "models": "no-such-model"}
    assert expected[why] in said
