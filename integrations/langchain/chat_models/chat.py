"""`ChatElasticReasoning`: a chat model whose thinking and solution are budgeted apart.

    llm = ChatElasticReasoning(thinking_budget=256, solution_budget=128)      # embedded e1-tiny
    message = await llm.ainvoke("...", thinking_budget=64)
    message.text; message.content_blocks; message.response_metadata["budget"]

Every way of calling goes through the async `_deltas`; the sync methods wait for it on the blocking portal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from ...openai_format.deltas import Delta
from ..blocking_portal import portal
from ..call import CompletedCall, run_all
from ..errors import langchain_errors
from ..messages import to_chat
from ..metadata import note_budget, response_metadata, usage_metadata
from .base import ElasticModel, local_context_length
from .binding import BudgetBinding
from .cache import budget_cache
from .options import CallOptions
from .structured_output import Method, structured

FIRST_INDEX = 1_000
"""Index of a message's first tool call. LangChain numbers blocks of reasoning and text from 0
(`output_version="v1"`) and merges blocks with the same index."""


class ChatElasticReasoning(ElasticModel, BaseChatModel):
    """A reasoning model as a LangChain chat model, with a thinking and a solution budget for every call.

    Inside `task_budget(...)` each call gets its Budget from the task, and settles with it.

    Raises:
        BudgetExceededError: the task's caps can't hold the call; nothing was spent.
        ClosedTaskError: the task has ended.
        PromptTooLongError: the prompt leaves no room for the solution.
        NoSuchModelError, UnbudgetableModelError: when the model is first used.
        UpstreamError, UpstreamUnavailableError: its server failed.
    """

    model_config = ElasticModel.model_config  # LangChain's would let a misspelt field pass

    streaming: bool = False
    """Stream in `invoke` too, for callbacks."""

    # Generating

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            answers = self._options(stop, kwargs, chat=True).answers()
        made = await run_all([self._answer(messages, options) for options in answers])
        note_budget(run_manager, made[0].response_metadata["budget"])
        return ChatResult(generations=[ChatGeneration(message=message) for message in made])

    async def _answer(self, messages: Sequence[BaseMessage], options: CallOptions) -> BaseMessage:
        deltas: list[Delta] = []
        async with aclosing(self._deltas(to_chat(messages), options)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    deltas.append(part)
                else:
                    completed = part
        whole = Delta(
            "".join(delta.reasoning for delta in deltas),
            "".join(delta.text for delta in deltas),
            [call for delta in deltas for call in delta.tool_calls],
        )
        return message_chunk_to_message(_last_chunk(whole, completed, bool(whole.tool_calls)))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        with langchain_errors():
            options = self._options(stop, kwargs, chat=True)
        if options.n != 1:
            raise ValueError("a stream brings one answer: n must be 1")
        has_calls = False
        async with aclosing(self._deltas(to_chat(messages), options)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    has_calls = has_calls or bool(part.tool_calls)
                    yield ChatGenerationChunk(message=_chunk(part))
                else:
                    yield ChatGenerationChunk(message=_last_chunk(Delta(), part, has_calls))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = portal.run(self._agenerate(messages, stop, **kwargs))
        note_budget(run_manager, result.generations[0].message.response_metadata["budget"])
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        return portal.iterate(self._astream(messages, stop, **kwargs))

    # Tools and options

    def bind(self, **kwargs: Any) -> BudgetBinding:
        """This model with call options; they survive a later `bind_tools`."""
        return BudgetBinding(bound=self, kwargs=kwargs, config={})

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Show tools to the model, through its chat template.

        Args:
            tools: schemas, functions, pydantic classes or LangChain tools.
            tool_choice: "auto" (or None), "none", "any", or the name of the tool to call.
            strict: arguments keep to the tool's schema; the arguments of a forced call always do.
            parallel_tool_calls: False allows one call at most.
            kwargs: further call options, such as `thinking_budget=`.

        All but "auto" and "none" is enforced by the engine's guided decoding. An engine without it (the
        embedded one) refuses the call with `RefusedRequestError`, and nothing is spent.
        """
        options: dict[str, Any] = {
            "tools": [convert_to_openai_tool(tool, strict=strict) for tool in tools],
            "tool_choice": tool_choice,
            "parallel_tool_calls": parallel_tool_calls,
        }
        return self.bind(**{k: v for k, v in options.items() if v is not None}, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with answers of a given shape, enforced like a tool choice; see `structured_output`.

        Args:
            schema: a pydantic class, a TypedDict, a JSON schema, or an OpenAI tool schema.
            method: "json_schema", "function_calling" or "json_mode".
            include_raw: answer `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            strict: for a function call; a JSON schema is always enforced.
            kwargs: call options, such as `thinking_budget=`.
        """
        model = self.with_budget(**kwargs) if kwargs else self
        return structured(model, schema, method, include_raw=include_raw, strict=strict)

    # The cache

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """See `BaseChatModel.generate`; answers are looked up and stored by budget."""
        return BaseChatModel.generate(self._behind_cache(), messages, *args, **kwargs)

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """See `BaseChatModel.agenerate`; answers are looked up and stored by budget."""
        return await BaseChatModel.agenerate(self._behind_cache(), messages, *args, **kwargs)

    def _behind_cache(self) -> ChatElasticReasoning:
        cache = budget_cache(self.cache)
        return self if cache is None else self.model_copy(update={"cache": cache})

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        key = {**self._options(stop, kwargs, chat=True).key(), **self._where}
        key |= {"_type": self._llm_type, "output_version": self.output_version}
        return json.dumps(key, sort_keys=True, default=repr)

    # About the model

    def load(self) -> Self:
        """Load the model now (see `ElasticModel.load`), and complete its profile."""
        super().load()
        backend = self._backend()
        self.profile = _profile(guided=backend.guided, context_length=backend.context_length)
        return self

    def _resolve_model_profile(self) -> ModelProfile:
        """What the model can do, as far as that is known before the model is loaded."""
        if self.backend is not None:
            return _profile(guided=self.backend.guided, context_length=self.backend.context_length)
        if self.base_url is not None or self.backend_options.get("engine") == "vllm":
            return _profile(guided=True, context_length=None)
        return _profile(guided=False, context_length=local_context_length(self.model))

    @property
    def _llm_type(self) -> str:
        return "elastic-reasoning-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing("chat", stop, kwargs)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Length of the prompt that the model would read, template and tools included."""
        schemas = [convert_to_openai_tool(tool) for tool in tools or ()]
        with langchain_errors():
            return len(self._backend().codec.encode_chat(to_chat(messages), tools=schemas or None))


def _profile(*, guided: bool, context_length: int | None) -> ModelProfile:
    profile = ModelProfile(
        text_inputs=True,
        image_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        pdf_inputs=False,
        text_outputs=True,
        reasoning_output=True,
        tool_calling=True,
        tool_choice=guided,
        structured_output=guided,
        tool_call_streaming=True,
        temperature=True,
    )
    if context_length is not None:
        profile["max_input_tokens"] = context_length
    return profile


def _chunk(delta: Delta) -> AIMessageChunk:
    return AIMessageChunk(
        content=delta.text,
        additional_kwargs={"reasoning_content": delta.reasoning} if delta.reasoning else {},
        tool_call_chunks=[
            cast("ToolCallChunk", {**call, "index": FIRST_INDEX + (call["index"] or 0)})
            for call in delta.tool_calls
        ],
    )


def _last_chunk(delta: Delta, completed: CompletedCall, has_calls: bool) -> AIMessageChunk:
    """The chunk that ends a message. It alone has usage and cost: LangChain merges chunks by adding."""
    chunk = _chunk(delta)
    chunk.usage_metadata = usage_metadata(completed.result.usage)
    chunk.response_metadata = response_metadata(completed, has_calls=has_calls)
    chunk.chunk_position = "last"
    return chunk
