"""The backend `vllm_engine`: its suite, run where vLLM is (`make vllm`), and what is said where it isn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastic_agent.backends.load import load_backend
from elastic_agent.errors import UnknownModelError
from tests.vllm_server import run_suite


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two engines start, each in a minute on an idle machine
def test_the_suite(root: Path, tmp_path: Path) -> None:
    """tests/core/backends/vllm/engine_suite.py, in the environment of vLLM."""
    options = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    suite = "tests/core/backends/vllm/engine_suite.py"
    run_suite(suite, root, tmp_path / "pytest.ini", options, needs="pytest")


def test_where_there_is_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that isn't installed, or that there is none of, is an error that says what to do."""
    monkeypatch.setattr("elastic_agent.backends.load.find_spec", lambda name: None)
    with pytest.raises(UnknownModelError, match=r"elastic-agent\[vllm\]"):
        load_backend("e1-tiny", engine="vllm")
    with pytest.raises(UnknownModelError, match="transformers, vllm"):
        load_backend("e1-tiny", engine="llamacpp")
