"""The same agent, unchanged, in production, in evaluation and in training: nothing differs but the model."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import load_backend
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import BudgetScheduler, current_task, task_budget
from elastic_agent.training.evaluation.cli import main as evaluate
from elastic_agent.training.run import train
from tests.training.agents.test_training import quiet, run_of
from tests.training.runs import make_base

SEEN: list[dict[str, Any]] = []
CAP = 120


async def agent(row: Mapping[str, Any], llm: Any) -> float:
    """Notes what it can see of where it runs."""
    task = current_task()
    assert task is not None
    said = await asyncio.gather(llm.ainvoke(row["question"], kind="steps-2"), llm.ainvoke("what is #2 ?"))
    last = await llm.ainvoke([("user", row["question"]), ("assistant", "no"), ("user", "why ?")], final=True)
    report = task.report()
    SEEN.append(
        {
            "llm": type(llm),
            "scheduler": type(task.scheduler),
            "policy": task.scheduler.policy.name,
            "caps": task.caps,
            "kinds": [call.kind for call in report.calls],
            "outcomes": [call.outcome for call in report.calls],
            "budgets": [set(message.response_metadata["budget"]) for message in (*said, last)],
            "spent within": (task.spent.tokens or 0) <= CAP,
        }
    )
    return float(len(last.text) % 2)


def test_nothing_differs_but_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEEN.clear()
    base = make_base(tmp_path / "base")
    row = {"question": "what is #1 ?"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")

    async def produce() -> None:
        backend = load_backend(str(base))
        llm = ChatElasticReasoning(backend=backend, solution_budget=8)
        async with BudgetScheduler(backend) as scheduler, task_budget(tokens=CAP, scheduler=scheduler):
            await agent(row, llm)

    asyncio.run(produce())
    given = (
        "--agent",
        f"{__name__}:agent",
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--caps",
        f"tokens={CAP}",
    )
    where = ("--model", str(base), "--output", str(tmp_path / "eval"), "--set", "llm={solution_budget: 8}")
    evaluate([*given, *where])
    section = {"run": f"{__name__}:agent", "caps": {"tokens": CAP}}
    train(run_of(base, tmp_path / "train", "agent", agent=section, steps=1), log=quiet)
    production, evaluation, *training = SEEN
    assert len(training) >= 16
    assert production["outcomes"] == ["answered"] * 3
    for seen in (evaluation, *training):
        assert seen == production
    assert f"tokens={CAP}" in capsys.readouterr().out
