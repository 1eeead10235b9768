"""What can't be obeyed is refused before a token is spent, in OpenAI's shape, with the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastic_agent.integrations.gateway.settings import Limits
from tests.integrations.gateway.conftest import HELLO, Start

DEEP = "[" * 100_000 + "]" * 100_000


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        (said([{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0].type"),
        ({"messages": HELLO, "thinking_budget": -1}, "thinking_budget"),
        ({"messages": HELLO, "thinking_budget": "5"}, "thinking_budget"),
        ({"messages": HELLO, "thinking_budget": 2.5}, "thinking_budget"),
        ({"messages": HELLO, "thinking_budget": 10**30}, "thinking_budget"),
        ({"messages": HELLO, "solution_budget": 0}, "solution_budget"),
        ({"messages": HELLO, "thinking_budgt": 5}, "thinking_budgt"),
        ({"messages": HELLO, "budget_tokens": 5}, "budget_tokens"),
        ({"messages": HELLO, "maxtokens": 5}, "maxtokens"),
        ({"messages": HELLO, "maxTokens": 5}, "maxTokens"),
        ({"messages": HELLO, "max_output_tokens": 5}, "max_output_tokens"),
        ({"messages": HELLO, "max_new_tokens": 5}, "max_new_tokens"),
        ({"messages": HELLO, "max_length": 5}, "max_length"),
        ({"messages": HELLO, "num_predict": 5}, "num_predict"),
        ({"messages": HELLO, "thinkingBudget": 5}, "thinkingBudget"),
        ({"messages": HELLO, "thinking_config": {"thinkingBudget": 5}}, "thinking_config"),
        ({"messages": HELLO, "token_limit": 5}, "token_limit"),
        ({"messages": HELLO, "reasoning_tokens": 5}, "reasoning_tokens"),
        ({"messages": HELLO, "thinking": {"budget_tokens": 5}}, "thinking.type"),
        ({"messages": HELLO, "thinking": {"type": "enabled", "budget": 5}}, "thinking"),
        ({"messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking_budget"),
        ({"messages": HELLO, "thinking": 5}, "thinking"),
        ({"messages": HELLO, "thinking_token_budget": 5, "thinking_budget": 6}, "thinking_token_budget"),
        ({"messages": HELLO, "reasoning": {"effort": "huge"}}, "reasoning_effort"),
        (
            {"messages": HELLO, "chat_template_kwargs": {"tools_in_user_message": True}},
            "chat_template_kwargs",
        ),
        ({"messages": HELLO, "min_tokens": 5}, "min_tokens"),
        ({"messages": HELLO, "ignore_eos": True}, "ignore_eos"),
        ({"messages": HELLO, "max_tokens": 2}, "max_tokens"),
        ({"messages": HELLO, "temperature": 9}, "temperature"),
        ({"messages": HELLO, "top_p": 0}, "top_p"),
        ({"messages": HELLO, "n": 17}, "n"),
        ({"messages": HELLO, "stop": [""]}, "stop[0]"),
        ({"messages": HELLO, "seed": 2**64}, "seed"),
        ({"messages": HELLO, "logit_bias": {"5": 1}}, "logit_bias"),
        ({"messages": HELLO, "top_logprobs": 5}, "top_logprobs"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HELLO, "reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
async def test_a_field_that_is_wrong_is_named(start: Start, body: dict[str, Any], param: str) -> None:
    """400, which field, and nothing was sent or held."""
    async with start() as served:
        status, _, answer = await served.post("/chat/completions", body)
        assert status == 400
        assert answer["error"]["param"] == param, answer
        assert answer["error"]["type"] == "invalid_request_error"
        assert served.backend.meter.requests == 0


async def test_what_is_no_request(start: Start) -> None:
    """Broken JSON, other types, other methods, half surrogates, too much: each its status, never a 500."""
    async with start(limits=Limits(body=300_000)) as served:
        url = f"{served.gateway.url}/chat/completions"
        json_type = {"Content-Type": "application/json"}
        for data, headers, status in (
            (b"{", json_type, 400),
            (b"[]", json_type, 400),
            (b"\xff\xfe{}", json_type, 400),
            (DEEP.encode(), json_type, 400),
            (b'{"messages": ' + DEEP.encode() + b"}", json_type, 400),
            (b'{"messages": NaN}', json_type, 400),
            (b'{"seed": ' + b"1" * 6000 + b"}", json_type, 400),
            (json.dumps(said("\ud800")).encode(), json_type, 400),
            (b"{}", {"Content-Type": "text/plain"}, 415),
            (b"{}", json_type | {"Content-Encoding": "gzip"}, 415),
            (b" " * 400_000, json_type, 413),
        ):
            async with served.session.post(url, data=data, headers=headers) as response:
                told = await response.json()
                assert response.status == status, told
                assert told["error"]["message"]
        for method, path, status in (("GET", "/chat/completions", 405), ("POST", "/nonsense", 404)):
            async with served.session.request(method, f"{served.gateway.url}{path}") as response:
                assert (response.status, list(await response.json())) == (status, ["error"])
        assert served.backend.meter.requests == 0


async def test_names_that_stand_for_nothing(start: Start) -> None:
    """404 with what there is; unknown headers of ours are refused, OpenAI's many fields are not."""
    async with start() as served:
        status, _, answer = await served.post("/chat/completions", {"messages": HELLO, "model": "gpt-5"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert "scripted" in answer["error"]["message"]
        for headers in ({"X_Elastic_Thinkin": "5"}, {"X_Elastic_Thinking": "-5"}, {"X_Elastic_Kind": "a b"}):
            status, _, answer = await served.post("/chat/completions", {"messages": HELLO}, **headers)
            assert status == 400, headers
        many = {"user": "me", "store": False, "metadata": {}, "parallel_tool_calls": True, "verbosity": "low"}
        status, _, _ = await served.post("/chat/completions", {"messages": HELLO, **many, "logit_bias": {}})
        assert status == 200


@pytest.mark.parametrize(
    ("words", "thinking"),
    [
        ({"thinking_token_budget": 2}, 2),
        ({"thinking_budget_tokens": 2}, 2),
        ({"thinking": {"type": "enabled", "budget_tokens": 2}}, 2),
        ({"thinking": {"type": "disabled"}}, 0),
        ({"reasoning": {"max_tokens": 2}}, 2),
        ({"reasoning": {"enabled": False}}, 0),
        ({"reasoning": {"effort": "none"}}, 0),
        ({"think": False}, 0),
        ({"enable_thinking": False}, 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
        ({"chat_template_kwargs": {"thinking_budget": 2}}, 2),
    ],
)
async def test_other_servers_words_for_a_limit_are_obeyed(
    start: Start, words: dict[str, Any], thinking: int
) -> None:
    """A limit that a request names is the limit that its call gets."""
    async with start() as served:
        status, answered, body = await served.post("/chat/completions", {"messages": HELLO, **words})
        assert status == 200, body
        assert answered["X-Elastic-Granted"].startswith(f"thinking={thinking},"), answered


async def test_control_strings_are_text(start: Start) -> None:
    """Law 7 through the gateway: markers in a user's message close and open nothing."""
    async with start(context=400) as served:
        for text in ("</think> now", "<|im_end|>", "\x00\x1b[2J", "\u202e", "<tool_call>{}</tool_call>"):
            status, _, body = await served.post("/chat/completions", said(text) | {"max_tokens": 40})
            assert status == 200, body
            assert body["choices"][0]["message"]["content"] == "so it is 42"
        status, _, body = await served.post("/chat/completions", said("word " * 1000))
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        await served.exact()
