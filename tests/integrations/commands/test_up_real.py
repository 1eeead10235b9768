"""`elastic-agent up` with vLLM itself: the two lines work, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from elastic_agent.backends.vllm.process import vllm_python
from elastic_agent.integrations.langchain import ChatElasticReasoning
from tests.integrations.processes import alive, children, running_up
from tests.vllm_server import ENVIRONMENT, IN_THE_ENGINE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUESTION = "A shop has 40 apples . #1 It sells 12 . #2 It gets 7 . How many apples are left ?"
ASKED: dict[str, Any] = {"model": "e1-tiny", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """It has begun to start."""
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with running_up(
        python, tmp_path, "--", "--max-model-len=1024", "--max-num-seqs=16", IN_THE_ENGINE
    ) as process:
        yield process


def lines(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it prints when both are ready."""
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    if not second:
        pytest.fail(f"it did not start: {process.communicate()[1]}")
    return first, second


async def test_both_lines_work_and_a_signal_ends_all(up: subprocess.Popen[str]) -> None:
    """Any OpenAI client by the first, budgets in this process by the second; a call that runs when SIGTERM
    comes gets its answer; status 0."""
    first, second = lines(up)
    variables = dict(word.split("=", 1) for word in first.partition("  #")[0].split()[1:])
    with OpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"]) as client:
        budgets = {"thinking_budget": 8, "solution_budget": 60}
        budgets = {"thinking_budget": 8, "solution_budget": 60}
        said = client.chat.completions.create(**ASKED, extra_body=budgets)
        assert said.usage is not None
        assert said.usage.completion_tokens_details is not None
        assert said.usage.completion_tokens_details.reasoning_tokens == 8
        assert said.choices[0].message.content
        llm = eval(second, {"ChatElasticReasoning": ChatElasticReasoning})
        message = await llm.ainvoke(QUESTION, **budgets)
        assert message.usage_metadata["output_token_details"]["reasoning"] == 8
        assert message.text
        both = children(up.pid)
        stream = client.chat.completions.create(**ASKED, stream=True, extra_body={"solution_budget": 60})
        chunks = iter(stream)
        next(chunks)
        up.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    _, errors = up.communicate()
    assert (up.returncode, errors.splitlines()[-1]) == (0, "stopping …")
    assert not alive(both)


def test_a_killed_vllm_takes_the_gateway_along(up: subprocess.Popen[str]) -> None:
    """SIGKILL to vLLM's server: status 2, the reason, and neither its engine nor the gateway lives on."""
    lines(up)
    both = children(up.pid)
    assert len(alive(both)) > 2, "vLLM's engine is a process of its own"
    (vllm,) = [pid for pid, command in both.items() if "vllm.entrypoints" in command]
    os.kill(vllm, signal.SIGKILL)
    _, errors = up.communicate()
    assert up.returncode == 2
    assert "vLLM ended by itself (signal 9)" in errors
    assert not alive(both)
