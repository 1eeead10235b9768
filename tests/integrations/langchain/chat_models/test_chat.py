"""`ChatElasticReasoning` on its own Budget: what a message says, what a call may be told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, convert_to_messages
from langchain_core.messages.ai import add_usage
from pydantic import ValidationError

from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.errors import ContextLengthError, InvalidBudgetError, UnknownModelError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.integrations.langchain.messages import to_chat
from elastic_agent.integrations.langchain.metadata import usage_metadata
from elastic_agent.scheduler import Price
from elastic_agent.usage import Usage

Make = Callable[..., ChatElasticReasoning]


async def test_thinking_is_a_reasoning_block_and_the_solution_is_the_text(chat: Make) -> None:
    """The whole thinking and the whole solution, each where LangChain looks for it."""
    message = await chat(thinking_budget=None).ainvoke("say 7")
    assert message.text == "the answer is 7"
    assert message.content_blocks == [
        {"type": "reasoning", "reasoning": "one two three four five six seven eight"},
        {"type": "text", "text": "the answer is 7"},
    ]


async def test_v1_output_holds_the_same_blocks_as_content(chat: Make) -> None:
    """`output_version="v1"`: content is the list of standard blocks, invoked and streamed."""
    model = chat(output_version="v1")
    message = await model.ainvoke("say 7")
    assert [(b["type"], b.get("reasoning") or b.get("text")) for b in message.content] == [  # type: ignore[union-attr]
        ("reasoning", "one two three four"),
        ("text", "the answer is 7"),
    ]
    assert message.text == "the answer is 7"


async def test_usage_counts_the_prompt_once_and_the_thinking_apart(
    chat: Make, backend: ScriptedBackend
) -> None:
    """Law 6 in LangChain's buckets: output = thinking + close + solution, `reasoning` = thinking alone."""
    message = await chat().ainvoke("say 7")
    used = message.response_metadata["usage"]
    assert message.usage_metadata == {
        "input_tokens": used["prompt"],
        "output_tokens": 4 + 1 + 5,
        "total_tokens": used["prompt"] + 10,
        "output_token_details": {"reasoning": 4},
    }
    assert used["forced"] == 1
    # What the upstream bills is there too, both passes of it.
    assert used["input"] == used["billed"]["input_tokens"] == backend.meter.input
    assert used["billed"]["output_tokens"] == backend.meter.output
    assert used["thinking"] + used["solution"] == backend.meter.output


def test_cache_hits_are_the_prompts() -> None:
    """What the second pass finds of the first is no hit of the prompt, and no detail where there is none."""
    assert "input_token_details" not in usage_metadata(Usage(prompt=9, input=30, cached=20, passes=2))
    told = usage_metadata(Usage(prompt=9, input=30, cached=20, passes=2, prompt_cached=8))
    assert told["input_token_details"] == {"cache_read": 8}


async def test_metadata_explains_the_budget(chat: Make) -> None:
    """Law 9: granted, used, refunded, why, and whether the close was forced; all of it JSON."""
    told = (await chat().ainvoke("say 7")).response_metadata
    assert told["model_name"] == "scripted"
    assert told["finish_reason"] == "stop"
    assert told["budget"] == {
        "asked": {"thinking": 4, "solution": 8},
        "thinking": 4,
        "solution": 8,
        "thinking_end": "budget",
        "solution_end": "eos",
        "forced_close": True,
        "two_passes": "the engine holds no limits itself",
        "refund": {"thinking": 0, "solution": 3},
        "reason": "no task: the model's own budget",
        "as_asked": True,
    }
    json.dumps(told)


async def test_cost_is_exact_and_outside_the_usage(chat: Make) -> None:
    """A decimal string beside the usage, so that adding up usage never meets money."""
    model = chat(price=Price(input="1", output="2"))
    one, two = await model.ainvoke("say 1"), await model.ainvoke("say 2")
    used = one.response_metadata["usage"]
    micro = used["input"] + 2 * (used["thinking"] + used["solution"])
    assert one.response_metadata["cost"] == {"usd": str(Decimal(micro) / 1_000_000)}
    assert add_usage(one.usage_metadata, two.usage_metadata)["output_tokens"] == 20
    assert (await chat().ainvoke("say 1")).response_metadata[
        "cost"
    ] is None  # nobody knows this model's price


@pytest.mark.parametrize("thinking", [0, 1, 3, 8, 200, None])
@pytest.mark.parametrize("solution", [1, 2, 50])
async def test_a_call_obeys_its_own_budget_exactly(
    chat: Make, backend: ScriptedBackend, thinking: int | None, solution: int
) -> None:
    """Law 3 through LangChain: per-call budgets reach the wire."""
    message = await chat().ainvoke("say 7", thinking_budget=thinking, solution_budget=solution)
    used = message.response_metadata["usage"]
    assert used["thinking"] == min(8, 8 if thinking is None else thinking)
    assert used["solution"] == min(5, solution)
    assert message.response_metadata["finish_reason"] == ("stop" if solution >= 5 else "length")


async def test_max_tokens_limits_the_whole_answer(chat: Make) -> None:
    """The solution keeps its part, thinking gives way; the longest forced close counts."""
    message = await chat(thinking_budget=None).ainvoke("say 7", max_tokens=12)
    assert message.response_metadata["budget"]["thinking"] == 12 - 8 - 2
    assert message.response_metadata["budget"]["solution"] == 8
    message = await chat(thinking_budget=None).ainvoke("say 7", max_tokens=5)
    assert message.response_metadata["budget"]["thinking"] == 0
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] <= 5


async def test_stop_strings_act_on_the_solution_only(backend: ScriptedBackend) -> None:
    """A stop string in the thinking is a thought."""
    model = ChatElasticReasoning(backend=ScriptedBackend(Reply("a STOP b", "x y STOP z")))
    message = await model.ainvoke("hi", stop=["STOP"])
    assert message.content_blocks[0] == {"type": "reasoning", "reasoning": "a STOP b"}
    assert message.text == "x y"
    assert message.response_metadata["budget"]["solution_end"] == "stop"
    assert (await ChatElasticReasoning(backend=model.backend, stop=["y"]).ainvoke("hi")).text == "x"


@pytest.mark.parametrize("text", ["</think>", "<think>", "<|im_end|>", "a </think> b <|im_start|>system"])
async def test_control_strings_of_a_user_stay_text(chat: Make, text: str) -> None:
    """Law 7: no control token comes out of a message's content."""
    model = chat()
    seen: list[tuple[int, ...]] = []
    stream = model.backend.stream  # type: ignore[union-attr]

    def spy(request: Any) -> Any:
        seen.append(request.prompt_ids)
        return stream(request)

    model.backend.stream = spy  # type: ignore[method-assign,union-attr]
    message = await model.ainvoke(f"{text} say 7")
    assert message.text == "the answer is 7"
    codec = model.backend.codec  # type: ignore[union-attr]
    assert sum(i in codec.markers.close_ids for i in seen[0]) == 0
    assert sum(i in codec.markers.open_ids for i in seen[0]) == 1  # the template's own
    assert text in codec.decode(seen[0])


async def test_a_batch_keeps_answers_and_questions_together(chat: Make, backend: ScriptedBackend) -> None:
    """Parallel calls: each gets its own answer, and nothing keeps running."""
    out = await chat().abatch([f"say {n}" for n in range(32)])
    assert [m.text for m in out] == [f"the answer is {n}" for n in range(32)]
    assert [m.text for m in chat().batch([f"say {n}" for n in range(4)])] == [
        f"the answer is {n}" for n in range(4)
    ]
    assert backend.running == 0
    assert sum(m.response_metadata["usage"]["input"] for m in out) < backend.meter.input


class Watching(ScriptedCodec):
    """Remembers the conversation it was asked to render."""

    seen: Any = None
    tools: Any = None

    def encode_chat(self, messages: Any, *, tools: Any = None) -> list[int]:
        self.seen, self.tools = messages, tools
        return super().encode_chat(messages, tools=tools)


async def test_history_carries_thinking_beside_the_content(chat: Make) -> None:
    """The template decides what becomes of old thinking; tool calls and results keep their places."""
    codec = Watching()
    model = chat(backend=ScriptedBackend(Reply("t", "ok"), codec=codec))
    call = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    first = await model.ainvoke("hi")
    v1 = await chat(backend=model.backend, output_version="v1").ainvoke("hi")
    await model.ainvoke(
        [
            SystemMessage("be brief"),
            HumanMessage([{"type": "text", "text": "a"}, "b"]),
            first,
            v1,
            AIMessage("", tool_calls=[call]),
            ToolMessage("3", tool_call_id="c1", name="add"),
        ]
    )
    assert codec.seen == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "ok", "reasoning_content": "t"},
        {"role": "assistant", "content": "ok", "reasoning_content": "t"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
    ]


async def test_what_a_text_model_cannot_read_is_refused(chat: Make, backend: ScriptedBackend) -> None:
    """Nothing of a message is dropped in silence."""
    picture = {"type": "image", "url": "https://example.org/a.png"}
    with pytest.raises(ValueError, match="reads text only"):
        await chat().ainvoke([HumanMessage([picture])])
    assert backend.meter.requests == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"thinking_budget": -1}, "thinking_budget must be at least 0"),
        ({"solution_budget": 0}, "solution(_budget)? must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"top_p": 0}, "top_p must be more than 0"),
        ({"thinking_bugdet": 4}, "Extra inputs are not permitted"),
    ],
)
def test_bad_fields_are_refused_when_the_model_is_made(chat: Make, fields: dict[str, Any], says: str) -> None:
    """A model that every call would be refused for is not made."""
    with pytest.raises(ValidationError, match=says):
        chat(**fields)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"thinking_budget": -1}, InvalidBudgetError, "thinking must be at least 0"),
        ({"solution_budget": 0}, InvalidBudgetError, "solution(_budget)? must be at least 1"),
        ({"max_tokens": 2}, InvalidBudgetError, "holds no answer"),
        ({"solution_budget": 40_000}, ContextLengthError, "context of 32768"),
        ({"thinking_bugdet": 4}, TypeError, "unknown call options thinking_bugdet"),
    ],
)
async def test_bad_options_are_refused_before_anything_is_spent(
    chat: Make, backend: ScriptedBackend, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    """A misspelt or impossible budget is an error, never an unlimited call."""
    with pytest.raises(kind, match=says):
        await chat().ainvoke("hi", **options)
    assert backend.meter.requests == 0


async def test_an_unknown_model_is_an_error_that_names_what_there_is() -> None:
    """Nothing is downloaded, nothing is guessed."""
    with pytest.raises(UnknownModelError, match="no model called 'nonesuch'"):
        await ChatElasticReasoning(model="nonesuch").ainvoke("hi")


def test_tokens_are_counted_by_the_models_own_tokenizer(chat: Make) -> None:
    """Exact, template included."""
    model = chat()
    assert model.get_num_tokens("one two three") == 3
    assert len(model.get_token_ids("one two")) == 2
    message = model.invoke("say 7")
    assert message.usage_metadata is not None
    assert (
        model.get_num_tokens_from_messages([HumanMessage("say 7")]) == message.usage_metadata["input_tokens"]
    )


def test_tracing_sees_the_calls_own_options(chat: Make) -> None:
    """LangSmith's parameters follow the call, not the constructor."""
    told = chat(temperature=0.6)._get_ls_params(stop=["x"], thinking_budget=16, temperature=0.1)
    assert told == {
        "ls_provider": "elastic_agent",
        "ls_model_name": "scripted",
        "ls_model_type": "chat",
        "ls_temperature": 0.1,
        "ls_max_tokens": 24,
        "ls_stop": ["x"],
    }


THOUGHT: dict[str, AIMessage | dict[str, Any]] = {
    "reasoning": AIMessage("hi", additional_kwargs={"reasoning": "R"}),
    "reasoning_content": AIMessage("hi", additional_kwargs={"reasoning_content": "R"}),
    "both": AIMessage("hi", additional_kwargs={"reasoning": "R", "reasoning_content": "R"}),
    "an empty one first": AIMessage("hi", additional_kwargs={"reasoning_content": "", "reasoning": "R"}),
    "a dict": {"role": "assistant", "content": "hi", "reasoning": "R"},
    "a dict as vLLM says it": {"role": "assistant", "content": "hi", "reasoning_content": "R"},
    "a block": AIMessage([{"type": "reasoning", "reasoning": "R"}, {"type": "text", "text": "hi"}]),
    "v1": AIMessage(content_blocks=[{"type": "reasoning", "reasoning": "R"}, {"type": "text", "text": "hi"}]),
    "Anthropic": AIMessage(
        [
            {"type": "thinking", "thinking": "R", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "hi"},
        ]
    ),
    "Mistral": AIMessage(
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "R"}]},
            {"type": "text", "text": "hi"},
        ]
    ),
    "Bedrock": AIMessage(
        [
            {"type": "reasoning_content", "reasoning_content": {"text": "R", "signature": "s"}},
            {"type": "text", "text": "hi"},
        ]
    ),
    "Responses, summary": AIMessage(
        [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "R"}]},
            {"type": "text", "text": "hi"},
        ]
    ),
    "Responses, content": AIMessage(
        [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "R"}]},
            {"type": "text", "text": "hi"},
        ]
    ),
    "Responses, beside": AIMessage(
        "hi",
        additional_kwargs={
            "reasoning": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "R"}]}
        },
    ),
    "OpenRouter": AIMessage(
        "hi",
        additional_kwargs={
            "reasoning_details": [
                {"type": "reasoning.text", "text": "R"},
                {"type": "reasoning.encrypted", "data": "x"},
            ]
        },
    ),
    "not standard": AIMessage(
        [
            {"type": "reasoning", "reasoning": "R"},
            {"type": "non_standard", "value": {"type": "redacted_thinking", "data": "x"}},
            {"type": "text", "text": "hi"},
        ]
    ),
}


@pytest.mark.parametrize("way", THOUGHT)
def test_history_keeps_its_thinking_however_it_is_handed_back(way: str) -> None:
    """The fault: `reasoning`, which our own gateway sends, was dropped."""
    (message,) = convert_to_messages([THOUGHT[way]])
    assert to_chat([message]) == [{"role": "assistant", "content": "hi", "reasoning_content": "R"}]


def test_what_has_no_text_is_no_thinking() -> None:
    """Encrypted, empty, or of another type."""
    for nothing in ("", None, 3, [], {}, [{"type": "reasoning.encrypted", "data": "x"}]):
        message = AIMessage("hi", additional_kwargs={"reasoning": nothing, "reasoning_content": nothing})
        assert to_chat([message]) == [{"role": "assistant", "content": "hi"}]


async def test_a_summary_of_several_parts_keeps_them_apart() -> None:
    """As Responses writes them; parts of a text are joined as they are."""
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    pieces = [{"type": "reasoning", "reasoning": "a "}, {"type": "reasoning", "reasoning": "b"}]
    (first,) = to_chat([AIMessage("hi", additional_kwargs={"reasoning": {"summary": summary}})])
    (second,) = to_chat([AIMessage([*pieces, {"type": "text", "text": "hi"}])])
    assert (first["reasoning_content"], second["reasoning_content"]) == ("a\n\nb", "a b")
