"""A real vLLM server that serves e1-tiny: the contract that every backend passes, and what only it can show.

The tests share one server (tests/vllm_server.py), and skip where there is no vLLM (`make vllm`).
"""

from __future__ import annotations

import pytest

from elastic_agent.backends.base import Backend
from elastic_agent.backends.vllm_process import VllmProcess
from elastic_agent.backends.vllm_server import VllmServerBackend
from tests.backends.contract import Contract, Make
from tests.vllm_server import MODEL

# A server starts in a minute on an idle machine, and in several on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def server(vllm: VllmProcess) -> VllmProcess:
    vllm.ensure()
    return vllm


@pytest.fixture
def make(server: VllmProcess) -> Make:
    async def make() -> Backend:
        backend = VllmServerBackend(MODEL, server.base_url)
        await backend.ready()
        return backend

    return make


class TestVllm(Contract):
    """The whole contract."""

    exact_meter = False
