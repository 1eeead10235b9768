"""The contract, over every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from elastic_agent.backends.base import Backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.model_location import embedded_models, model_path
from tests.core.backends.contract import Contract, Make
from tests.core.backends.models import random_backend
from tests.wire import Wire, serve_in_thread

LONG = Reply(" ".join(f"t{i}" for i in range(60)), "done")


def scripted() -> ScriptedBackend:
    return ScriptedBackend(LONG, context_length=2000)


class TestScripted(Contract):
    @pytest.fixture
    def make(self) -> Make:
        async def make() -> Backend:
            return scripted()

        return make


class TestTransformers(Contract):
    @pytest.fixture
    def make(self) -> Make:
        async def make() -> Backend:
            return random_backend()

        return make


@pytest.mark.skipif("e1-tiny" not in embedded_models(), reason="the embedded model is not there")
class TestEmbedded(Contract):
    @pytest.fixture
    def make(self) -> Make:
        async def make() -> Backend:
            return TransformersBackend.load(model_path("e1-tiny"), name="e1-tiny")

        return make


class TestVllmServer(Contract):
    """Over the wire, in front of a scripted model."""

    exact_meter = False

    @pytest.fixture
    def wire(self) -> Iterator[Wire]:
        backend = scripted()
        with serve_in_thread(backend) as wire:
            yield wire
        assert backend.running == 0

    @pytest.fixture
    def make(self, wire: Wire) -> Make:
        async def make() -> Backend:
            backend = VllmServerBackend("scripted", wire.base_url, codec=wire.backend.codec)
            await backend.ready()
            return backend

        return make
