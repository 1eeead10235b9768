"""What a decision costs, counted in function calls: a clock would tell about the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _litellm import NoLiteLLMError, litellm_python

from benchmarks.decision_cost import Office, function_calls, litellm


def test_a_decision_is_cheap_however_many_tasks_live() -> None:
    """Some 185 Python functions, and as many with 1,000 live tasks as with 100: nothing scans the tasks.

    A task alone moves its reserve less often: nobody else's calls teach how long answers are.
    """
    alone, few, many = (function_calls(Office(tasks), 100) for tasks in (1, 100, 1000))
    assert alone < 187
    assert many < 1.03 * few
    assert many < 1.07 * alone


def test_nothing_is_told_where_nobody_listens() -> None:
    """Reasons, numbers and events are made for a log, or when somebody asks for them."""
    heard: list[object] = []
    silent, told = (function_calls(Office(1, log), 20) for log in (None, heard.append))
    assert heard
    assert silent + 30 < told


def test_litellm_is_measured_beside_it_where_it_is_installed() -> None:
    """Both quantiles of each of LiteLLM's checks; the spend it counted adds up (the child asserts it)."""
    try:
        litellm_python()
    except NoLiteLLMError as error:
        pytest.skip(f"LiteLLM is {error}")
    found: dict[str, Any] = {}
    litellm(found, 200)
    names = {"proxy_reserve", "proxy_check", "proxy_count", "manager", "manager_unsaved"}
    assert set(found["litellm"]) == names
    assert all(0 < each["p50_us"] <= each["p99_us"] for each in found["litellm"].values())


def test_without_litellm_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark goes on, and says how to get it."""
    monkeypatch.setenv("ELASTIC_LITELLM_PYTHON", str(tmp_path / "python"))
    found: dict[str, Any] = {}
    litellm(found, 200)
    assert found == {}
    assert "not installed: make litellm" in capsys.readouterr().out
