"""Providers' controls of thinking: by what the model is, in the words of the class that asks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import Field

from elastic_agent import Budget
from elastic_agent.integrations.langchain import guard
from elastic_agent.integrations.langchain.guarded.controls import (
    CHECKED,
    CLIENTS,
    LEVEL_FROM,
    MODELS,
    OFF,
    level,
    model_row,
    plain_name,
)
from elastic_agent.integrations.langchain.guarded.providers import known_controls, thinks
from elastic_agent.integrations.langchain.guarded.providers import task_budget as told_budget
from elastic_agent.scheduler import task_budget

DOCS = Path(__file__).parents[4] / "docs" / "langchain.md"
NOTHING, SOME, MUCH = Budget(0, 500), Budget(2048, 500), Budget(100_000, 500)


class Fake(FakeListChatModel):
    """What guard looks at of other packages' classes."""

    responses: list[str] = Field(default_factory=list)
    model: str = "unknown"
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    max_retries: int = 2


def of(name: str, model: str, **options: Any) -> Any:
    return type(name, (Fake,), {})(model=model, **options)


def gpt(model: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, api_key="k", **options)  # type: ignore[arg-type]


CLAUDE = ["output_config", "thinking"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5-20251101"),
        ("global.anthropic.claude-opus-5-5", "claude-opus-5-5"),
        ("anthropic/claude-opus-4.5", "claude-opus-4-5"),
        ("anthropic/claude-4.7-opus", "claude-opus-4-7"),
        ("anthropic/claude-3.7-sonnet:thinking", "claude-sonnet-3-7"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("publishers/anthropic/models/claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-7", "claude-opus-4-7"),
        ("models/gemini-2.5-flash", "gemini-2-5-flash"),
        ("openai/gpt-5.1", "gpt-5-1"),
        ("openai:gpt-5", "gpt-5"),
        ("azure/gpt-5-mini", "gpt-5-mini"),
        ("ft:gpt-4o-mini:org::id", "gpt-4o-mini"),
        ("accounts/fireworks/models/gpt-oss-120b", "gpt-oss-120b"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b-1:0"[:-2]),
        ("qwen3:8b", "qwen3"),
        ("", ""),
    ],
)
def test_a_name_is_the_same_whoever_hosts_it(name: str, plain: str) -> None:
    """Prefixes, regions, versions and dates of hosts."""
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("model", "control", "levels"),
    [
        *(
            (f"claude-{name}", "effort", 5)
            for name in ("fable-5", "fable-5-1", "mythos-5-1", "mythos-preview")
        ),
        *((f"claude-{name}", "effort", 5) for name in ("opus-4-7", "opus-4-8", "opus-5", "opus-5-5")),
        *((f"claude-{name}", "effort", 5) for name in ("sonnet-5", "sonnet-5-5", "haiku-5-5")),
        *((f"claude-{name}", "budget", 0) for name in ("opus-4-6", "sonnet-4-6", "opus-4-5", "haiku-4-5")),
        *((f"claude-{name}", "budget", 0) for name in ("opus-4-1", "opus-4-0", "sonnet-4-20250514")),
        ("claude-3-7-sonnet-20250219", "budget", 0),
        *(
            (name, None, 0)
            for name in ("claude-3-5-sonnet-latest", "claude-3-opus-20240229", "claude-opus-6")
        ),
        *((name, "effort", 3) for name in ("o1", "o3-mini", "o3-2025-04-16", "o4-mini", "gpt-oss-20b")),
        *((name, "effort", 4) for name in ("gpt-5", "gpt-5-mini", "gpt-5-2025-08-07", "gpt-5.1")),
        *(
            (name, "effort", 5)
            for name in ("gpt-5.2", "gpt-5.4-mini", "gpt-5.5", "gpt-6.1-sol", "gpt-6-astra")
        ),
        *((name, "effort", 6) for name in ("gpt-5.6", "gpt-5.6-luna", "gpt-6-sol")),
        *((name, "effort", 3) for name in ("gpt-5-codex", "gpt-5.1-codex", "gpt-5.5-pro")),
        ("gpt-5-pro", "effort", 1),
        *((name, "none", 0) for name in ("gpt-5-chat-latest", "gpt-5.1-chat-latest", "o1-mini")),
        *((name, None, 0) for name in ("gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "gpt-7", "gpt-50")),
        *((name, "level", 4) for name in ("gemini-3-flash-preview", "gemini-3.5-flash", "gemini-3.6-flash")),
        *((name, "level", 3) for name in ("gemini-3.1-pro-preview", "gemini-3.8-flash", "gemini-4-argon")),
        ("gemini-3-pro-preview", "level", 2),
        *((name, "budget", 0) for name in ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite")),
        *((name, None, 0) for name in ("gemini-2.0-flash", "gemini-1.5-pro", "gemini-5-neon")),
        ("gemini-2.5-flash-image", "none", 0),
        *((name, None, 0) for name in ("mistral-large-latest", "llama-3.3-70b", "deepseek-chat", "grok-4")),
    ],
)
def test_what_each_model_takes(model: str, control: str | None, levels: int) -> None:
    """The rows, by names that are in use; a name that nobody knows has none."""
    row = model_row(model)
    assert (row.control if row else None) == control
    assert row is None or len(row.levels) == levels


@pytest.mark.parametrize(
    ("model", "budget", "told"),
    [
        # Claude from 4.7: never budget_tokens, and `disabled` only where it is taken
        (of("ChatAnthropic", "claude-opus-4-7"), SOME, {"effort": "medium", "thinking": "adaptive"}),
        (of("ChatAnthropic", "claude-opus-4-7"), MUCH, {"effort": "max", "thinking": "adaptive"}),
        (of("ChatAnthropic", "claude-opus-4-7"), NOTHING, {"effort": "low"}),
        (of("ChatAnthropic", "claude-sonnet-5-5"), NOTHING, {"effort": "low"}),
        (of("ChatAnthropic", "claude-opus-5"), NOTHING, {"effort": "low", "thinking": "disabled"}),
        # Before: a number
        (of("ChatAnthropic", "claude-sonnet-4-5"), SOME, {"thinking": 2048}),
        (of("ChatAnthropic", "claude-sonnet-4-5"), NOTHING, {"thinking": "disabled"}),
        (of("ChatAnthropicVertex", "claude-sonnet-4-5@20250929"), SOME, {"thinking": 2048}),
        # OpenAI
        (gpt("gpt-5"), NOTHING, {"reasoning_effort": "minimal"}),
        (gpt("gpt-5.1"), NOTHING, {"reasoning_effort": "none"}),
        (gpt("gpt-5.2"), MUCH, {"reasoning_effort": "xhigh"}),
        (gpt("gpt-5.6"), MUCH, {"reasoning_effort": "max"}),
        (gpt("gpt-5-pro"), NOTHING, {"reasoning_effort": "high"}),
        (gpt("gpt-5-chat-latest"), SOME, {}),
        (gpt("gpt-4o"), SOME, {}),
        (of("ChatGroq", "openai/gpt-oss-120b"), SOME, {"reasoning_effort": "medium"}),
        (of("ChatGroq", "llama-3.3-70b-versatile"), SOME, {}),
        # Gemini: one of the two, never both
        (of("ChatGoogleGenerativeAI", "models/gemini-3-pro-preview"), SOME, {"thinking_level": "low"}),
        (of("ChatGoogleGenerativeAI", "gemini-3-flash-preview"), NOTHING, {"thinking_level": "minimal"}),
        (of("ChatGoogleGenerativeAI", "gemini-3.1-pro-preview"), MUCH, {"thinking_level": "high"}),
        (of("ChatGoogleGenerativeAI", "gemini-2.5-flash"), NOTHING, {"thinking_budget": 0}),
        (of("ChatGoogleGenerativeAI", "gemini-2.5-pro"), NOTHING, {"thinking_budget": 128}),
        (of("ChatVertexAI", "gemini-2.5-pro"), MUCH, {"thinking_budget": 32_768}),
        (of("ChatGoogleGenerativeAI", "gemini-1.5-pro"), SOME, {}),
        # Whoever hosts it
        (of("ChatBedrockConverse", "us.anthropic.claude-opus-4-7"), SOME, {"fields": CLAUDE}),
        (of("ChatBedrockConverse", "us.anthropic.claude-sonnet-4-5-v1:0"), SOME, {"fields": ["thinking"]}),
        (of("ChatBedrockConverse", "openai.gpt-oss-120b-1:0"), SOME, {"fields": ["reasoning_effort"]}),
        (of("ChatBedrockConverse", "amazon.nova-2-lite-v1:0"), SOME, {"fields": ["reasoningConfig"]}),
        (of("ChatBedrockConverse", "meta.llama3-3-70b-instruct-v1:0"), SOME, {}),
        (of("ChatOpenRouter", "anthropic/claude-opus-4.7"), SOME, {"reasoning": {"effort": "medium"}}),
        (of("ChatOpenRouter", "anthropic/claude-sonnet-4.5"), SOME, {"reasoning": {"effort": "medium"}}),
        (of("ChatOpenRouter", "google/gemini-2.5-flash"), NOTHING, {"reasoning": {"effort": "none"}}),
        (of("ChatOpenRouter", "openai/gpt-5"), NOTHING, {"reasoning": {"effort": "minimal"}}),
        (of("ChatOpenRouter", "meta-llama/llama-4-maverick"), SOME, {}),
        (
            gpt("anthropic/claude-sonnet-4.5", base_url="https://openrouter.ai/api/v1"),
            SOME,
            {"extra_body": {"reasoning": {"max_tokens": 2048}}},
        ),
        (of("ChatXAI", "grok-4.3"), SOME, {}),  # a fake is no BaseChatOpenAI
        # Nobody knows the model, the class, or what the two make together
        (of("ChatAnthropic", "claude-opus-9"), SOME, {}),
        (of("ChatSomething", "claude-opus-4-7"), SOME, {}),
        (gpt("claude-opus-4-7", base_url="http://proxy/v1"), SOME, {}),
        (gpt("gemini-3-pro-preview", base_url="http://proxy/v1"), SOME, {}),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.model}" if isinstance(value, Fake) else str(value)[:60],
)  # fmt: skip
def test_what_is_sent(model: Any, budget: Budget, told: dict[str, Any]) -> None:
    """The sum always; thinking as the model takes it, and as its class says it."""
    sent = dict(known_controls(model)(budget))
    most = [sent.pop(name) for name in ("max_tokens", "max_output_tokens") if name in sent]
    assert most == [(budget.thinking or 0) + budget.solution]
    found: dict[str, Any] = {}
    if thinking := sent.pop("thinking", None):
        found["thinking"] = thinking.get("budget_tokens", thinking["type"])
    if config := sent.pop("output_config", None):
        found["effort"] = config["effort"]
    if fields := sent.pop("additional_model_request_fields", None):
        found["fields"] = sorted(fields)
    assert {**found, **sent} == told
    assert thinks(model) == bool(told)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ChatOllama", "num_predict"),
        ("ChatGoogleGenerativeAI", "max_output_tokens"),
        ("ChatAnything", "max_tokens"),
    ],
)
def test_the_sum_under_the_classs_own_name(name: str, option: str) -> None:
    """A limit that the class doesn't know would be no limit."""
    assert known_controls(of(name, "unknown"))(SOME) == {option: 2548}


async def test_a_limit_that_is_a_field() -> None:
    """ChatOllama takes none in a call: a copy of the model is asked, and the options of a call keep to it."""
    seen: list[tuple[int, Any]] = []

    class ChatOllama(Fake):
        num_predict: int = 99

        def _call(self, *args: Any, **kwargs: Any) -> str:
            seen.append((self.num_predict, kwargs.get("options")))
            return "hello"

    model = guard(ChatOllama(responses=["x"]), max_tokens=10)
    await model.ainvoke("hi")
    await model.ainvoke("hi", options={"num_predict": 5000, "seed": 1})
    assert seen == [(10, None), (10, {"num_predict": 10, "seed": 1})]
    assert model.num_predict == 99


def test_a_class_that_nobody_knows_is_told_by_its_own_field() -> None:
    """As it calls it."""

    class Other(FakeListChatModel):
        max_new_tokens: int = 99

    assert known_controls(Other(responses=[]))(SOME) == {"max_new_tokens": 2548}
    assert guard(Other(responses=[])).guard_terms.most(Other(responses=[])) == 99  # type: ignore[attr-defined]


def test_what_a_call_says_beside_it_is_kept() -> None:
    """A format in `output_config`, a summary in `reasoning`, a body of the user's own."""
    claude = of("ChatAnthropic", "claude-opus-5", output_config={"format": "f"})
    call = {"output_config": {"task_budget": {"total": 1}}}
    sent = known_controls(claude, call)(SOME)["output_config"]
    assert sent == {"format": "f", "task_budget": {"total": 1}, "effort": "medium"}
    summing = gpt("gpt-5", reasoning={"effort": "high", "summary": "auto"})
    assert known_controls(summing)(SOME)["reasoning"] == {"effort": "medium", "summary": "auto"}
    assert "reasoning_effort" not in known_controls(summing)(SOME)
    routed = gpt(
        "openai/gpt-5", base_url="https://openrouter.ai/api/v1", extra_body={"provider": {"sort": "price"}}
    )
    sent = known_controls(routed)(SOME)["extra_body"]
    assert sent == {"provider": {"sort": "price"}, "reasoning": {"effort": "medium"}}


def test_claude_does_not_think_before_a_tool_that_it_has_to_call() -> None:
    """Anthropic refuses both at once; structured output by tools forces one."""
    claude = of("ChatAnthropic", "claude-sonnet-4-5")
    forced = known_controls(claude, {"tool_choice": {"type": "tool", "name": "f"}})(SOME)
    assert forced == {"max_tokens": 2548, "thinking": {"type": "disabled"}}
    free = known_controls(claude, {"tool_choice": {"type": "auto"}})(SOME)
    assert free["thinking"] == {"type": "enabled", "budget_tokens": 2048}


def test_a_models_own_thinking_does_not_replace_the_grant() -> None:
    """ChatAnthropic puts its field over the call's option; how thinking is shown is kept."""
    claude = of("ChatAnthropic", "claude-sonnet-4-5", thinking={"type": "enabled", "budget_tokens": 60_000})
    assert guard(claude).thinking is None
    assert claude.thinking is not None


def test_azure_by_the_model_that_is_deployed() -> None:
    """A deployment's own name tells nothing: then the sum alone."""
    options: Any = {"azure_endpoint": "http://x", "api_version": "1", "api_key": "k"}
    known = AzureChatOpenAI(azure_deployment="mine", model="gpt-5", **options)
    assert known_controls(known)(SOME)["reasoning_effort"] == "medium"
    unknown = AzureChatOpenAI(azure_deployment="mine", **options)
    assert known_controls(unknown)(SOME) == {"max_tokens": 2548}


def test_a_task_budget_is_advice_for_who_takes_it() -> None:
    """At least 20,000, and only where there is a cap in tokens."""
    claude = of("ChatAnthropic", "claude-opus-5-5")
    advice = {"output_config": {"task_budget": {"type": "tokens", "total": 64_000}}}
    assert told_budget(claude, {}, 64_000) == advice
    for left in (19_999, float("inf")):
        assert told_budget(claude, {}, left) == {}
    for other in (
        of("ChatAnthropic", "claude-sonnet-4-5"),
        of("ChatOpenRouter", "anthropic/claude-opus-5.5"),
    ):
        assert told_budget(other, {}, 64_000) == {}


async def test_what_is_left_is_told() -> None:
    """`tell=True`, in a task with a cap in tokens: beside the effort, with each call, while it is enough."""
    seen: list[Any] = []

    class ChatAnthropic(Fake):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            seen.append(kwargs["output_config"])
            return "hello"

    claude = ChatAnthropic(responses=["x"], model="claude-opus-5-5")
    left = []
    async with task_budget(tokens=40_000) as task:
        for _ in range(4):
            left.append(40_000 - (task.spent.tokens or 0))
            await guard(claude, max_tokens=10_000, tell=True).ainvoke("hi")
    told = [config.get("task_budget", {}).get("total") for config in seen]
    assert told == [tokens if tokens >= 20_000 else None for tokens in left]
    assert None in told
    assert all("effort" in config for config in seen)
    await guard(claude, tell=True).ainvoke("hi")
    async with task_budget(tokens=40_000):
        await guard(claude).ainvoke("hi")
    assert all("task_budget" not in config for config in seen[-2:])


def test_the_rows_are_whole() -> None:
    """Each word has its step, each pattern compiles, each way has its families."""
    for row in MODELS:
        re.compile(row.names)
        assert set(row.levels) <= {*LEVEL_FROM, *OFF}
        assert bool(row.levels) == (row.control in ("effort", "level"))
        assert not row.levels or all(level(t, row.levels) in row.levels for t in (0, 1, 5000, 10**6))
    families = {row.family for row in MODELS}
    assert all(set(client.families) <= families for client in CLIENTS)


def test_the_page_has_every_family() -> None:
    """docs/langchain.md says what is hard and what is advice, and on which day the rows were checked."""
    page = DOCS.read_text()
    assert f"checked on {CHECKED.isoformat()}" in page
    table = page.split("### What is hard, and what is advice", 1)[1].split("\n## ", 1)[0].lower()
    assert all(row.family in table for row in MODELS)
    assert all(name.lower() in table for client in CLIENTS for name in client.classes)
