"""What a server says to guided decoding is asked at no token, and whoever can't say is asked once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from elastic_agent.backends.load import load_backend
from elastic_agent.backends.replicas import Replicas
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.vllm.guided_decoding import REMEMBERED
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.backends.vllm.server_process import free_port
from elastic_agent.budget import Budget
from elastic_agent.errors import UnsupportedError
from elastic_agent.generation.generate import generate
from elastic_agent.generation.guided_decoding import unwritable
from elastic_agent.integrations.openai_format.guided_decoding import guided_fields
from elastic_agent.model_location import model_path
from elastic_agent.prompts.tokenizer import load_codec
from tests.wire import Faults, Wire

FIELDS = {"structured_outputs": {"json": '{"type": "object"}'}}
NO = 'Grammar error: Unimplemented keys: ["contains"]'


@asynccontextmanager
async def served(faults: Faults | None = None) -> AsyncIterator[tuple[VllmServerBackend, Wire]]:
    upstream = ScriptedBackend(Reply("a b", "c"))
    async with Wire(upstream, faults=faults) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec)
        yield client, wire
        await client.aclose()


async def guided(backend: Any, **fields: Any) -> str:
    return (await generate(backend, "why", Budget(2, 3), solution_extra=FIELDS | fields)).solution


async def test_refused_before_a_token() -> None:
    """Law 4: the engine's own words, and nothing was sent to it; asked again, since it may have changed."""
    async with served(Faults(refuse_guides=NO)) as (client, wire):
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="can't guide by this schema: Grammar error"):
                await guided(client)
        assert (client.meter.requests, wire.backend.meter.requests) == (0, 0)
        wire.faults.refuse_guides = None
        assert await guided(client) == "c"


async def test_what_was_taken_is_asked_once() -> None:
    """Two questions for the first call, one for another schema, none for the same, whatever else a call has;
    calls alone are charged."""
    other = {"structured_outputs": {"json": '{"type": "array"}'}}
    async with served() as (client, wire):
        for many, more in ((2, {}), (2, {"min_tokens": 2}), (3, other), (3, other), (3, {})):
            assert await guided(client, **more) == "c"
            assert len(wire.checks) == many
        assert [set(body) - {"structured_outputs"} for body in wire.checks] == [
            {"model", "prompt", "max_tokens", "stream"}
        ] * 3
        assert client.meter == wire.backend.meter
        await generate(client, "why", Budget(2, 3))
        assert len(wire.checks) == 3
        for number in range(REMEMBERED):
            assert await client.refusal({"x": [number]}) == ""
        assert len(client._guides._accepted._digests) == REMEMBERED


async def test_a_server_that_does_not_tell() -> None:
    """One that knows no engines by number serves one token, which is on the meter, and is asked no more."""
    async with served(Faults(no_ranks=True)) as (client, wire):
        for _ in range(2):
            assert await guided(client) == "c"
        assert [body["max_tokens"] for body in wire.requests].count(1) == 1
        assert client.meter.requests == wire.backend.meter.requests == 5


@pytest.mark.parametrize(
    "faults",
    [
        Faults(status=500),
        Faults(status=400, body="<html>no"),
        Faults(status=404),
        Faults(status=200, body="OK", no_ranks=True),
    ],
    ids=str,
)
async def test_an_answer_that_says_nothing(faults: Faults) -> None:
    """Unknown: the call goes on, and what it meets is the call's own."""
    async with served(faults) as (client, _):
        assert await client.refusal(FIELDS) == ""
    words = ScriptedBackend(Reply("a", "b")).codec
    nowhere = VllmServerBackend("scripted", f"http://127.0.0.1:{free_port()}/v1", codec=words)
    assert await nowhere.refusal(FIELDS) == ""
    assert await nowhere.refusal({"structured_outputs": {"choice": {object()}}}) == ""
    await nowhere.aclose()
    assert await nowhere.refusal(FIELDS) == ""


async def test_one_replica_refuses() -> None:
    """A call may be sent to any of them."""
    async with served() as (one, _), served(Faults(refuse_guides=NO)) as (other, _):
        replicas = Replicas([one, other])
        await replicas.ready()
        assert await replicas.refusal(FIELDS) == NO
        with pytest.raises(UnsupportedError):
            await guided(replicas)
        assert replicas.meter.requests == 0


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]


def shape(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        (([], None, None, {"type": "json_object"}), "{}"),
        (([], None, None, shape({"type": "object"})), "{}"),
        (([], None, None, shape({"type": "array"})), "[]"),
        (([], None, None, shape({"type": "integer"})), ""),
        (([], None, None, shape({"type": "string"})), ""),
        (([], None, None, shape({"enum": [1, 2]})), ""),
        (([TOOL], "required", None, None), "<>{}"),
        (([TOOL], "f", None, None), "<>{}"),
        (([TOOL], None, None, shape({"type": "object"})), "{}"),
        (([TOOL], None, None, shape({"type": "integer"})), ""),
        (([STRICT], None, None, None), ""),
    ],
)
def test_a_vocabulary_that_cannot_write_the_answer(asked: Any, missing: str) -> None:
    """e1-tiny has digits and no braces; what it can write, or may leave unwritten, is not refused. A
    vocabulary that makes up its words on the way writes anything."""
    fields = guided_fields(*asked)
    assert "".join(unwritable(load_codec(model_path("e1-tiny"), name="e1-tiny"), fields)) == missing
    assert unwritable(ScriptedBackend().codec, fields) == []


def test_what_is_no_schema_is_the_engines_to_say() -> None:
    """Callers of the core may pass on anything."""
    codec = load_codec(model_path("e1-tiny"), name="e1-tiny")
    for guide in (
        *(5, None, [], {}, {"json": 5}, {"json": "{"}, {"json": "[" * 10_000}, {"structural_tag": "5"}),
        *({"structural_tag": '{"format": 5}'}, {"regex": "{"}, {"json": '{"type": ["object"]}'}),
    ):
        assert unwritable(codec, {"structured_outputs": guide}) == []
    assert unwritable(codec, {"structured_outputs": {"json": {"type": "object"}}}) == ["{", "}"]


async def test_e1_tiny_on_a_server() -> None:
    """Found before anything is sent, with what to do."""
    codec = load_backend("e1-tiny").codec
    async with Wire(ScriptedBackend()) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=codec)
        with pytest.raises(UnsupportedError, match=r"can't write \{ \}.*use another model"):
            await guided(client)
        assert (wire.requests, wire.checks) == ([], [])
        await client.aclose()
