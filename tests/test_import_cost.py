"""`import elastic_agent` is free: under 50 ms, and it brings none of the heavy libraries."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

MODELS = ("torch", "transformers", "vllm", "trl")
STORES = ("sqlalchemy", "psycopg", "redis")
HEAVY = (*MODELS, *STORES, "langchain", "langchain_core", "langgraph", "tiktoken")

# What users import first, and what that may not bring with it.
LIGHT = {
    "elastic_agent": HEAVY,
    "elastic_agent.prompts.counting": HEAVY,
    "elastic_agent.generation.phases.two_phase": HEAVY,
    "elastic_agent.generation.generate": HEAVY,
    "elastic_agent.backends.decoder_backend": HEAVY,
    "elastic_agent.scheduler": HEAVY,
    "elastic_agent.scheduler.ledger.stores": HEAVY,
    "elastic_agent.integrations.commands.main": HEAVY,
    "elastic_agent.integrations.langchain": MODELS,
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("module", LIGHT)
def test_an_import_brings_nothing_heavy(module: str) -> None:
    """Names load when first used; a heavy library is imported by the adapter that is named for it."""
    code = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    loaded = set(run("-c", code).stdout.split())
    assert not loaded & set(LIGHT[module])


def test_import_takes_under_50_ms() -> None:
    """The best of five fresh interpreters: other work on the machine can only add time."""
    took_us = []
    for _ in range(5):
        report = run("-X", "importtime", "-c", "import elastic_agent").stderr
        cumulative = re.search(r"\|\s+(\d+) \| elastic_agent$", report, re.MULTILINE)
        assert cumulative is not None, report
        took_us.append(int(cumulative[1]))
    assert min(took_us) < 50_000, f"took {min(took_us) / 1000:.1f} ms"
