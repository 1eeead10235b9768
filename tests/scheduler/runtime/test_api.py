"""The part's public face, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import elastic_agent.scheduler as scheduler


def test_exported_names() -> None:
    """Names that users type: adding one is a decision, removing one a break."""
    assert scheduler.__all__ == sorted(scheduler.__all__)
    for name in scheduler.__all__:
        assert getattr(scheduler, name) is not None
    assert {"BudgetScheduler", "task_budget", "current_task", "Task", "Grant", "Price"} <= set(
        scheduler.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scheduler.nonsense


def test_importing_is_cheap() -> None:
    """Nothing heavy comes along, not even with the scheduler itself."""
    code = (
        "import sys; from elastic_agent.scheduler import BudgetScheduler, task_budget, Price;"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'langchain_core', 'rich', 'pydantic',"
        " 'genai_prices', 'numpy', 'aiohttp'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_centre_has_no_io() -> None:
    """Sans-IO: no asyncio and no clock in what decides."""
    modules = (
        "ledger.ledger, ledger.prices, latency.model, estimates.success_curve, estimates.workload, "
        "policies.marginal, allocation.allocator, queueing.endpoint, dispatch.dispatcher"
    )
    imports = ", ".join(f"elastic_agent.scheduler.{module}" for module in modules.split(", "))
    code = f"import sys; import {imports}; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
