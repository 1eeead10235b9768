"""`guard`: any chat model under the same ledger as ours.

    gpt = guard(ChatOpenAI(model="gpt-4o-mini"), price=Price("0.15", "0.60"))
    async with task_budget(usd="0.02") as task:
        await gpt.ainvoke("...")            # held before it is sent, settled by the provider's usage

The guarded model is the same model, of a subclass: tools, structured output, streaming and everything else
are its own. Before each call its prompt is counted (`elastic_agent.prompts.counting`, a bound), its most
output is held, and the Budget that the task grants is sent as the provider's own controls (`_controls` has
the rows).

What is guaranteed: no call leaves without a hold; the output that is asked for is the hold's; a call whose
usage stays unknown (cancelled, timed out, cut off, no usage in the answer) is charged whole, and what a usage
does not say is charged as what was held for it; usage is charged as the provider states it, beyond the hold
if it says so; what never left, or was refused, is charged nothing (docs/charges.md); the client's own retries
are switched off, and where they can't be, it is said.

What is not, because only the provider and its client library could: that the provider keeps to its limits and
counts rightly; that thinking keeps to its share (effort is advice); prompts that providers bill in other ways
(surcharges for writing a cache, images, their own tools: `allow=` says what to hold for those).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from functools import cache
from typing import Any, ClassVar, TypeVar, cast, get_args

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import Field

from elastic_agent.scheduler import Price
from elastic_agent.scheduler.allocation.request import OnExhausted
from elastic_agent.scheduler.ledger.prices import check_price
from elastic_agent.scheduler.runtime.context import counted_call
from elastic_agent.validation import integer, one_of

from ..blocking_portal import portal
from ..chat_models.fields import ElasticFields
from ..errors import langchain_errors
from .clients import without_retries
from .guarded_call import Guard, GuardedCall
from .providers import Controls, model_name, thinks

M = TypeVar("M", bound=BaseChatModel)

_NATIVE = ("_stream_chat_model_events", "_astream_chat_model_events")
"""Ways into a model past `_stream` (LangChain's `stream_events`), which a guarded class does without."""


def guard(
    model: M,
    *,
    price: Price | None = None,
    max_tokens: int | None = None,
    thinking_budget: int | None = None,
    allow: Mapping[str, int] | None = None,
    controls: Controls | None = None,
    on_exhausted: OnExhausted | None = None,
    tell: bool = False,
) -> M:
    """A chat model whose calls are held and settled by the task that they are made in.

    Outside of any task it is the model that it was, with `max_tokens` sent and without its client's retries.
    See the module for what is guaranteed and what is not. A call also takes `kind=`, `final=`, `weight=`,
    `priority=`, `label=` and `on_exhausted=`, as `ChatElasticReasoning` does.

    Args:
        model: any `BaseChatModel` but ours, which need no guard.
        price: what it costs; None: what the price list says. Needed for caps in `usd`. A call that names
            another model (`model=`) is charged by the list.
        max_tokens: most output tokens of a call, thinking included; None: the model's own, or 4,096.
        thinking_budget: of these, at most so many for thinking, where the provider has a control for it;
            None: half.
        allow: input tokens to hold for each part of a message that can't be counted, by type; see
            `elastic_agent.prompts.counting.count_prompt`.
        controls: a Budget as the provider's call options, where `_controls` does not know the model.
        on_exhausted: what calls do that don't fit; None is the task's way.
        tell: tell Claude what its task has left, where it takes a task budget: advice, beside the hold.

    Raises:
        TypeError: the model is one of ours, or no chat model.
        ValueError: a thinking budget that leaves no token for the answer; a price that is no `Price`; a
            number or a word that is none.

    Warns:
        UserWarning: the client keeps retries that can't be switched off.
    """
    given: object = model
    if isinstance(given, ElasticFields) or not isinstance(given, BaseChatModel):
        raise TypeError(f"guard is for other providers' chat models; a {type(model).__name__} is none")
    check_price(price)
    if on_exhausted is not None:
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
    terms = Guard(
        price,
        model_name(model),
        None if max_tokens is None else integer("max_tokens", max_tokens, least=1),
        None if thinking_budget is None else integer("thinking_budget", thinking_budget),
        {name: integer(f"allow[{name!r}]", n) for name, n in (allow or {}).items()},
        controls,
        on_exhausted,
        tell,
    )
    most = terms.most(model)
    if terms.thinking is not None and terms.thinking >= most:
        raise ValueError(
            f"thinking_budget={terms.thinking} leaves nothing of max_tokens={most} for the answer"
        )
    guarded = model.model_copy()
    without_retries(guarded)
    if controls is None and thinks(model) and "thinking" in type(model).model_fields:
        guarded.__dict__["thinking"] = (
            None  # a model's own would replace what a call is granted (ChatAnthropic)
        )
    object.__setattr__(guarded, "__class__", _guarded(getattr(type(model), "guard_of", type(model))))
    guarded.__dict__["guard_terms"] = terms
    return guarded


def is_guarded(model: object) -> bool:
    """Whether it came out of `guard`."""
    return isinstance(getattr(model, "guard_terms", None), Guard)


@cache
def _guarded(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    """A subclass of a model's class whose calls are guarded; it streams where that one does."""
    base: Any = kind

    def _generate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if counted_call.get():
            return cast("ChatResult", base._generate(self, messages, stop, run_manager, **kwargs))
        call = GuardedCall(self, kind, "_generate", messages, kwargs)
        with langchain_errors():
            portal.run(call.admit())
            portal.run(call.may_send())
            with call.settled():
                options = call.options()
                with call.running():
                    result = base._generate(call.target, call.messages, stop, run_manager, **options)
                call.seen(result.generations[0].message)
            return cast("ChatResult", result)

    async def _agenerate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if counted_call.get():
            return cast("ChatResult", await base._agenerate(self, messages, stop, run_manager, **kwargs))
        call = GuardedCall(self, kind, "_agenerate", messages, kwargs)
        with langchain_errors():
            await call.admit()
            with call.settled():
                options = call.options()
                work = base._agenerate(call.target, call.messages, stop, run_manager, **options)
                result = cast("ChatResult", await call.step(work))
                call.seen(result.generations[0].message)
            return result

    def _stream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if counted_call.get():
            yield from base._stream(self, messages, stop, run_manager, **kwargs)
            return
        call = GuardedCall(self, kind, "_stream", messages, kwargs)
        with langchain_errors():
            portal.run(call.admit())
            portal.run(call.may_send())
            with call.settled():
                options = call.options()
                chunks = base._stream(call.target, call.messages, stop, run_manager, **options)
                try:
                    while True:
                        with call.running():
                            chunk = next(chunks, None)
                        if chunk is None:
                            break
                        call.seen(chunk.message)
                        yield chunk
                finally:
                    if hasattr(chunks, "close"):
                        chunks.close()

    async def _astream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        source = base._astream
        if counted_call.get():
            async for chunk in source(self, messages, stop, run_manager, **kwargs):
                yield chunk
            return
        call = GuardedCall(self, kind, "_astream", messages, kwargs)
        with langchain_errors():
            await call.admit()
            with call.settled():
                options = call.options()
                chunks = source(call.target, call.messages, stop, run_manager, **options)
                async with aclosing(chunks):
                    while (chunk := await call.step(anext(chunks, None))) is not None:
                        call.seen(chunk.message)
                        yield chunk

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return _unpickled, (kind,), self.__getstate__()

    methods: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"A {kind.__name__} under `guard`.",
        # A field, so that it is there in every model that LangChain makes of this one's fields
        "__annotations__": {"guard_terms": Any, **dict.fromkeys(("guard_of", *_NATIVE), ClassVar[Any])},
        "guard_terms": Field(default=None, exclude=True, repr=False),
        "guard_of": kind,
        "_generate": _generate,
        "_agenerate": _agenerate,
        "__reduce__": __reduce__,
        "is_lc_serializable": classmethod(lambda cls: False),
        **dict.fromkeys(_NATIVE),
    }
    if kind._stream is not BaseChatModel._stream:  # LangChain looks at what is overridden
        methods["_stream"] = _stream
    if kind._astream is not BaseChatModel._astream:
        methods["_astream"] = _astream
    return type(f"Guarded{kind.__name__}", (kind,), methods)


def _unpickled(kind: type[BaseChatModel]) -> BaseChatModel:
    """An empty guarded model; its state follows."""
    guarded = _guarded(kind)
    return guarded.__new__(guarded)
