"""What every test gets: no network, one torch thread, and hypothesis set up the same way everywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler.loadfile import LoadFileScheduling

from benchmarks._servers import NoServerError, PostgresServer, RedisServer
from elastic_agent.backends.vllm.process import VllmProcess, vllm_python
from tests.vllm_server import Running, UpServer, bytes_server

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch or transformers. Two workers with two threads each would fight for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LANGSMITH_TRACING"] = "false"

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` uses ci: the same examples in every run, so that a failure is about the change at hand. A bare
# `pytest` uses dev: new random examples each time. No deadline: other work on the machine is no bug.
_shared = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, print_blob=True, **_shared)
settings.register_profile("dev", **_shared)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need a GPU run when asked for (`-m gpu`), never by themselves; those of VLLM_FILES in their
    order, in the places that they have among the others."""
    files = {item: item.nodeid.partition("::")[0] for item in items}
    places = [at for at, item in enumerate(items) if files[item] in VLLM_FILES]
    ordered = sorted((items[at] for at in places), key=lambda item: VLLM_FILES.index(files[item]))
    for at, item in zip(places, ordered, strict=True):
        items[at] = item
    if "gpu" in config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="needs a GPU: run with -m gpu")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


# A session's fixture is made once a worker: files that use `vllm`, or a server of their own, go to one, so
# that one server starts, and not beside an engine. In this order: a test that ends a server comes after those
# that use the server, and what one has killed another looks at.
VLLM_FILES = (
    "tests/core/backends/vllm/test_engine.py",
    "tests/core/backends/vllm/test_real_server.py",
    "tests/training/rollouts/engines/test_vllm_training.py",
    "tests/integrations/commands/test_up_real.py",
    "tests/integrations/gateway/test_vllm_guided.py",
    "tests/training/rollouts/engines/test_vllm_lost.py",
)


class _OneServer(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "vllm" if file in VLLM_FILES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneServer | None:
    """`--dist loadfile`, with the files of the vLLM server as one."""
    return _OneServer(config, log) if config.getoption("dist") == "loadfile" else None


_kept_clients: list[Any] = []


@pytest.fixture(autouse=True)
def http_clients_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain keeps its HTTP clients by address. A port that comes again in a later test would bring
    connections of an event loop that has ended. The clients are kept, as LangChain keeps them."""
    module = sys.modules.get("langchain_openai.chat_models._client_utils")
    for name in () if module is None else ("_cached_sync_httpx_client", "_cached_async_httpx_client"):
        cached = lru_cache(getattr(module, name).__wrapped__)
        _kept_clients.append(cached)
        monkeypatch.setattr(module, name, cached)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a real store is: a file, or a server that was started for the test."""
    if request.param == "sqlite":
        yield str(tmp_path / "spend.db")
        return
    try:
        server = PostgresServer() if request.param == "postgres" else RedisServer()
    except NoServerError as error:
        pytest.skip(str(error))
    with server:
        yield server.url


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """A real vLLM server that serves e1-tiny, for all tests that ask for one (tests/vllm_server.py)."""
    if url := os.environ.get("ELASTIC_VLLM_URL"):
        yield Running(url)
        return
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    server = UpServer(python, tmp_path_factory.mktemp("vllm"))
    server.ensure()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def bytes_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """A real vLLM server of a model that can write anything."""
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    server = bytes_server(python, tmp_path_factory.mktemp("bytes") / "model")
    yield server
    server.stop()
