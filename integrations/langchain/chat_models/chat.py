"""`ChatElasticReasoning`: a chat model whose thinking and solution are budgeted apart.

    llm = ChatElasticReasoning(thinking_budget=256, solution_budget=128)      # embedded e1-tiny
    message = await llm.ainvoke("...", thinking_budget=64)
    message.text; message.content_blocks; message.response_metadata["budget"]

Everything is written once, async, in `_pieces`; the sync methods go through the portal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

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

from ...openai_format.deltas import Delta, DeltaBuilder
from ...openai_format.guided_decoding import enforced_format
from ..blocking_portal import portal
from ..call import Outcome, Turned, answers, may_turn, run_call, together
from ..errors import langchain_errors
from ..messages import to_chat
from ..metadata import response_metadata, usage_metadata
from .binding import BudgetBinding
from .cache import budget_cache
from .fields import ElasticFields
from .options import ANSWER_NOW, CallOptions
from .structured_output import Method, structured

FIRST_INDEX = 1_000
"""Of a message's tool calls. LangChain itself numbers blocks of reasoning and text (`output_version="v1"`),
from 0, and merges what has one index."""


class ChatElasticReasoning(ElasticFields, BaseChatModel):
    """A reasoning model as a LangChain chat model, with a thinking and a solution budget for every call.

    Inside `task_budget(...)` each call gets its Budget from the task, and settles with it.

    Raises:
        BudgetExceededError: the task's caps can't hold the call; nothing was spent.
        ClosedTaskError: the task has ended.
        PromptTooLongError: the prompt leaves no room for the solution.
        NoSuchModelError, UnbudgetableModelError: when the model is first used.
        UpstreamError, UpstreamUnavailableError: its server failed.
    """

    model_config = ElasticFields.model_config  # LangChain's would let a misspelt field pass

    streaming: bool = False
    """Stream in `invoke` too, for callbacks."""

    # Generating

    async def _pieces(
        self, messages: Sequence[BaseMessage], options: CallOptions
    ) -> AsyncGenerator[Delta | Outcome]:
        """What the call brings, and its Outcome last."""
        with langchain_errors():
            prompt = to_chat(messages)
            backend = await self._ready_backend(options.model)
            ids = backend.codec.encode_chat(prompt, tools=options.tools or None)
            if options.guide:
                # A model that opens its thinking itself could skip it, and with it the solution's own pass
                ids += backend.codec.markers.to_open(ids)
            turns = options.tools and may_turn(options)
            spare = (
                backend.codec.encode_chat([*prompt, {"role": "user", "content": ANSWER_NOW}])
                if turns
                else None
            )
            pieces = DeltaBuilder(options.tools, enforced_format(backend.codec.tool_format, options.guide))
            async with aclosing(run_call(backend, ids, options, self._terms, spare)) as events:
                async for event in events:
                    if isinstance(event, Turned):
                        pieces = DeltaBuilder()
                        continue
                    piece = pieces.flush() if isinstance(event, Outcome) else pieces.feed(event)
                    if piece:
                        yield piece
                    if isinstance(event, Outcome):
                        yield event

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            every = answers(self._options(stop, kwargs, chat=True))
        made = await together([self._answer(messages, options) for options in every])
        return ChatResult(generations=[ChatGeneration(message=message) for message in made])

    async def _answer(self, messages: Sequence[BaseMessage], options: CallOptions) -> BaseMessage:
        pieces: list[Delta] = []
        async with aclosing(self._pieces(messages, options)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    pieces.append(part)
                else:
                    whole = Delta(
                        "".join(p.reasoning for p in pieces),
                        "".join(p.text for p in pieces),
                        [call for p in pieces for call in p.tool_calls],
                    )
                    message = message_chunk_to_message(_last(whole, part, whole.tool_calls))
        return message

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
        calls = False
        async with aclosing(self._pieces(messages, options)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    calls = calls or bool(part.tool_calls)
                    yield ChatGenerationChunk(message=_chunk(part))
                else:
                    yield ChatGenerationChunk(message=_last(Delta(), part, calls))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return portal.run(self._agenerate(messages, stop, **kwargs))

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
            strict: arguments keep to the tool's schema; those of a forced call do anyway.
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
        """This model with answers of a given shape, enforced like a tool choice; see `_structured`.

        Args:
            schema: a pydantic class, a TypedDict, a JSON schema, or an OpenAI tool schema.
            method: "json_schema", "function_calling" or "json_mode".
            include_raw: answer `{"raw": message, "parsed": ..., "parsing_error": ...}`.
            strict: of a function call; a JSON schema is always kept to.
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

    def _resolve_model_profile(self) -> ModelProfile:
        """What the model can do. The context of a served model is its server's to tell, when first called."""
        near = self.base_url is None or self.backend is not None
        guided = self._backend().guided if near else True
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
        if near:
            profile["max_input_tokens"] = self._backend().context_length
        return profile

    @property
    def _llm_type(self) -> str:
        return "elastic-reasoning-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing("chat", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids under the model's own tokenizer, control strings as text."""
        with langchain_errors():
            return self._backend().codec.encode(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Length of the prompt that the model would read, template and tools included."""
        schemas = [convert_to_openai_tool(tool) for tool in tools or ()]
        with langchain_errors():
            return len(self._backend().codec.encode_chat(to_chat(messages), tools=schemas or None))


def _chunk(piece: Delta) -> AIMessageChunk:
    return AIMessageChunk(
        content=piece.text,
        additional_kwargs={"reasoning_content": piece.reasoning} if piece.reasoning else {},
        tool_call_chunks=[
            cast("ToolCallChunk", {**call, "index": FIRST_INDEX + (call["index"] or 0)})
            for call in piece.tool_calls
        ],
    )


def _last(piece: Delta, outcome: Outcome, tool_calls: object) -> AIMessageChunk:
    """The chunk that ends a message: what it cost is on no other."""
    chunk = _chunk(piece)
    chunk.usage_metadata = usage_metadata(outcome.result.usage)
    chunk.response_metadata = response_metadata(outcome, tool_calls=bool(tool_calls))
    chunk.chunk_position = "last"
    return chunk
