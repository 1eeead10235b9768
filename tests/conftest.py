"""What every test gets: no network, one torch thread, and hypothesis set up the same way everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.vllm_server import VllmServer, vllm_python

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
    """Tests that need a GPU run when asked for (`-m gpu`), never by themselves."""
    if "gpu" in config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="needs a GPU: run with -m gpu")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM server that serves e1-tiny-base, for all tests of a worker (tests/vllm_server.py)."""
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    server = VllmServer(python, tmp_path_factory.mktemp("vllm") / "server.log")
    server.ensure()
    yield server
    server.kill()
