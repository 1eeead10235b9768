"""The classes of guarded models: subclasses of other providers' chat models, whose calls are `GuardedCall`s.

`guarded_copy` makes the class from the model's class and up to three mixins, because LangChain looks at which
methods a class overrides: a guarded model streams exactly where the model does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field

from elastic_agent.scheduler.runtime.context import counted_call

from ..blocking_portal import portal
from ..errors import langchain_errors, retrying
from ..metadata import note_budget
from .guarded_call import GuardedCall, GuardTerms
from .providers import unguarded_class

M = TypeVar("M", bound=BaseChatModel)


def guarded_copy(model: M, terms: GuardTerms) -> M:
    """A copy of the model, of its guarded class."""
    guarded = _empty(unguarded_class(model))
    BaseModel.__setstate__(guarded, BaseModel.__getstate__(model.model_copy()))
    guarded.__dict__["guard_terms"] = terms
    return cast("M", guarded)


def _empty(kind: type[BaseChatModel]) -> BaseChatModel:
    """A guarded model of this class without its state, which follows: in a copy, or a pickle."""
    guarded = _guarded_class(kind)
    return guarded.__new__(guarded)


@cache
def _guarded_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    mixins: list[type] = [_Guarded]
    if kind._stream is not BaseChatModel._stream:
        mixins.append(_GuardedStream)
    if kind._astream is not BaseChatModel._astream:
        mixins.append(_GuardedAsyncStream)
    body = {
        "__module__": __name__,
        "__doc__": f"A {kind.__name__} under `guard`.",
        # A field, so that it is there in every model that LangChain makes of this one's fields
        "__annotations__": {"guard_terms": Any, "guard_of": ClassVar[Any]},
        "guard_terms": Field(default=None, exclude=True, repr=False),
        "guard_of": kind,
    }
    return cast("type[BaseChatModel]", type(f"Guarded{kind.__name__}", (*mixins, kind), body))


class _Guarded:
    """`invoke` and `ainvoke` of a guarded model. A call inside a counted call is a part of the counted
    one."""

    guard_of: ClassVar[Any]

    # Ways past `_stream` into a model, for LangChain's `stream_events`: without them it takes `_stream`
    _stream_chat_model_events: ClassVar[None] = None
    _astream_chat_model_events: ClassVar[None] = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False

    def with_retry(self, **options: Any) -> Runnable[Any, Any]:
        """See `ElasticModel.with_retry`."""
        return cast("Runnable[Any, Any]", self.guard_of.with_retry(self, **retrying(**options)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (self.guard_of,), self.__getstate__()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generate = self.guard_of._generate
        if counted_call.get():
            return cast("ChatResult", generate(self, messages, stop, run_manager, **kwargs))
        call = GuardedCall(self, "_generate", messages, kwargs)
        with langchain_errors():
            portal.run(call.acquire())
            note_budget(run_manager, call.traced)
            portal.run(call.may_send())
            with call.settled():
                options = call.provider_options()
                with call.running():
                    result = cast(
                        "ChatResult", generate(call.target, call.messages, stop, run_manager, **options)
                    )
                call.received(result.generations[0].message)
            return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generate = self.guard_of._agenerate
        if counted_call.get():
            return cast("ChatResult", await generate(self, messages, stop, run_manager, **kwargs))
        call = GuardedCall(self, "_agenerate", messages, kwargs)
        with langchain_errors():
            await call.acquire()
            note_budget(run_manager, call.traced)
            with call.settled():
                options = call.provider_options()
                work = generate(call.target, call.messages, stop, run_manager, **options)
                result = cast("ChatResult", await call.step(work))
                call.received(result.generations[0].message)
            return result


class _GuardedStream:
    """`stream` of a guarded model."""

    guard_of: ClassVar[Any]

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = self.guard_of._stream
        if counted_call.get():
            yield from stream(self, messages, stop, run_manager, **kwargs)
            return
        call = GuardedCall(self, "_stream", messages, kwargs)
        with langchain_errors():
            portal.run(call.acquire())
            portal.run(call.may_send())
            with call.settled():
                options = call.provider_options()
                chunks = stream(call.target, call.messages, stop, run_manager, **options)
                try:
                    while True:
                        with call.running():
                            chunk = next(chunks, None)
                        if chunk is None:
                            break
                        call.received(chunk.message)
                        yield chunk
                finally:
                    if hasattr(chunks, "close"):
                        chunks.close()


class _GuardedAsyncStream:
    """`astream` of a guarded model."""

    guard_of: ClassVar[Any]

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        stream = self.guard_of._astream
        if counted_call.get():
            async for chunk in stream(self, messages, stop, run_manager, **kwargs):
                yield chunk
            return
        call = GuardedCall(self, "_astream", messages, kwargs)
        with langchain_errors():
            await call.acquire()
            with call.settled():
                options = call.provider_options()
                chunks = stream(call.target, call.messages, stop, run_manager, **options)
                async with aclosing(chunks):
                    while (chunk := await call.step(anext(chunks, None))) is not None:
                        call.received(chunk.message)
                        yield chunk
