"""`elastic-agent up` with vLLM itself: the two lines work, and nothing of it is left behind."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from openai import OpenAI

from elastic_agent.integrations.langchain import ChatElasticReasoning
from tests.integrations.processes import alive, children
from tests.vllm_server import UpServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUESTION = "A shop has 40 apples . #1 It sells 12 . #2 It gets 7 . How many apples are left ?"
ASKED: dict[str, Any] = {"model": "e1-tiny", "messages": [{"role": "user", "content": QUESTION}]}


def test_a_killed_vllm_takes_the_gateway_along(vllm: UpServer) -> None:
    """SIGKILL to vLLM's server: status 2, the reason, and neither its engine nor the gateway lives on.

    The tests of training have killed one before (tests/conftest.py says in which order)."""
    if not vllm.deaths:
        vllm.ensure()
        vllm.kill()
    for death in vllm.deaths:
        assert death.processes > 2, "vLLM's engine is a process of its own"
        assert death.status == 2
        assert "vLLM ended by itself (signal 9)" in death.errors
        assert not death.left


async def test_both_lines_work_and_a_signal_ends_all(vllm: UpServer) -> None:
    """Any OpenAI client by the first, budgets in this process by the second; a call that runs when SIGTERM
    comes gets its answer; status 0."""
    vllm.ensure()
    up, (first, second) = vllm.up, vllm.lines()
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
