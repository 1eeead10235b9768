"""`guard`: any chat model under the same ledger as ours.

    gpt = guard(ChatOpenAI(model="gpt-4o-mini"), price=Price("0.15", "0.60"))
    async with task_budget(usd="0.02") as task:
        await gpt.ainvoke("...")            # held before it is sent, settled by the provider's usage

The guarded model is the same model, of a subclass: tools, structured output, streaming and everything else
are its own. Before each call its prompt is counted (`elastic_agent.counting`, a bound), its most output is
held, and the Budget that the task grants is sent as the provider's own controls (`_providers` has the table).

What is guaranteed: no call leaves without a hold; the output that is asked for is the hold's; a call whose
usage stays unknown (cancelled, timed out, cut off, no usage in the answer) is charged whole; usage is charged
as the provider states it, beyond the hold if it says so.

What is not, because only the provider and its client library could: that the provider keeps to its limits and
counts rightly; that thinking keeps to its share (effort is advice); what retries inside the client cost (set
`max_retries=0`: each retry that is billed is unseen); prompts that providers bill in other ways (surcharges
for writing a cache, images, their own tools: `allow=` says what to hold for those).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_args

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from elastic_agent.budget import Budget
from elastic_agent.counting import count_prompt
from elastic_agent.errors import DeadlineError, TaskClosedError, UncountablePromptError
from elastic_agent.integrations.langchain._model import ElasticFields
from elastic_agent.integrations.langchain._options import ANSWER_NOW
from elastic_agent.integrations.langchain._portal import portal
from elastic_agent.integrations.langchain._providers import (
    Controls,
    family,
    known_controls,
    model_name,
    thinks,
    was_refused,
)
from elastic_agent.integrations.langchain.errors import langchain_errors
from elastic_agent.scheduler import Price, Task, current_task
from elastic_agent.scheduler.context import counted_call as _inside
from elastic_agent.scheduler.context import outside
from elastic_agent.scheduler.cost import check_price
from elastic_agent.scheduler.foreign import ForeignCall, ForeignModel
from elastic_agent.scheduler.request import OnExhausted
from elastic_agent.usage import Usage
from elastic_agent.values import integer, one_of

M = TypeVar("M", bound=BaseChatModel)
T = TypeVar("T")

_OURS = ("kind", "final", "weight", "priority", "on_exhausted", "label")
"""Call options that are for the task, not for the provider."""
_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Guard:
    """The terms under which a model is guarded; the arguments of `guard`."""

    model: ForeignModel
    price: Price | None
    max_tokens: int
    thinking: int
    allow: Mapping[str, int]
    controls: Controls
    on_exhausted: OnExhausted | None


def guard(
    model: M,
    *,
    price: Price | None = None,
    max_tokens: int | None = None,
    thinking_budget: int | None = None,
    allow: Mapping[str, int] | None = None,
    controls: Controls | None = None,
    on_exhausted: OnExhausted | None = None,
) -> M:
    """A chat model whose calls are held and settled by the task that they are made in.

    Outside of any task it is the model that it was, with `max_tokens` sent. See the module for what is
    guaranteed and what is not. A call also takes `kind=`, `final=`, `weight=`, `priority=`, `label=` and
    `on_exhausted=`, as `ChatElasticReasoning` does.

    Args:
        model: any `BaseChatModel` but ours, which need no guard.
        price: what it costs; None: what the price list says. Needed for caps in `usd`.
        max_tokens: most output tokens of a call, thinking included; None: the model's own, or 4,096.
        thinking_budget: of these, at most so many for thinking, where the provider has a control for it;
            None: half.
        allow: input tokens to hold for each part of a message that can't be counted, by type; see
            `elastic_agent.counting.count_prompt`.
        controls: a Budget as the provider's call options, where `_providers` does not know the model.
        on_exhausted: what calls do that don't fit; None is the task's way.

    Raises:
        TypeError: the model is one of ours, or no chat model.
        ValueError: a thinking budget that leaves no token for the answer.
    """
    given: object = model
    if isinstance(given, ElasticFields) or not isinstance(given, BaseChatModel):
        raise TypeError(f"guard is for other providers' chat models; a {type(model).__name__} is none")
    own = next((n for name in _OUTPUT if isinstance(n := getattr(model, name, None), int)), None)
    check_price(price)
    if on_exhausted is not None:
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
    most = (own or 4096) if max_tokens is None else integer("max_tokens", max_tokens, least=1)
    half = most // 2 if thinks(model) or controls is not None else 0
    thinking = half if thinking_budget is None else integer("thinking_budget", thinking_budget)
    if thinking >= most:
        raise ValueError(f"thinking_budget={thinking} leaves nothing of max_tokens={most} for the answer")
    foreign = ForeignModel(model_name(model))
    terms = Guard(
        foreign, price, most, thinking, allow or {}, controls or known_controls(model), on_exhausted
    )
    guarded = model.model_copy()
    object.__setattr__(guarded, "__class__", _guarded(type(model)))
    object.__setattr__(
        guarded, "__pydantic_private__", {**(model.__pydantic_private__ or {}), "_guard": terms}
    )
    return guarded


def is_guarded(model: object) -> bool:
    """Whether it came out of `guard`."""
    return isinstance((getattr(model, "__pydantic_private__", None) or {}).get("_guard"), Guard)


class _Guarded:
    """One guarded call."""

    def __init__(self, model: Any, messages: list[BaseMessage], kwargs: dict[str, Any]) -> None:
        self.terms: Guard = model.__pydantic_private__["_guard"]
        self.kind = family(model)
        self.messages = messages
        self.own = {name: kwargs[name] for name in _OURS if name in kwargs}
        self.kwargs = {name: value for name, value in kwargs.items() if name not in _OURS}
        if (self.kwargs.get("n") or getattr(model, "n", None) or 1) != 1:
            raise ValueError("guard holds for one answer a call: leave out n=")
        given = [(name, self.kwargs.pop(name)) for name in _OUTPUT if name in self.kwargs]
        asked = [integer(name, most, least=1) for name, most in given if most is not None]
        most = min([*asked, self.terms.max_tokens]) if asked else self.terms.max_tokens
        thinking = min(self.terms.thinking, most - 1)
        self.wish = Budget(thinking, most - thinking)
        self.budget = self.wish
        self.call: ForeignCall | None = None
        self._sent = False
        self.usage: UsageMetadata | None = None

    # What comes before and after, whichever way the call is made

    async def admit(self) -> None:
        task = current_task()
        if task is None:
            outside()
        else:
            self.call = ForeignCall(
                task,
                self.terms.model,
                prompt=self._count(task, self.messages),
                thinking=self.wish.thinking or 0,
                solution=self.wish.solution,
                price=self.terms.price,
                **{"on_exhausted": self.terms.on_exhausted, **self.own},
            )
            self.budget = await self.call.admit()
            if self.call.turned:
                self.messages = [*self.messages, HumanMessage(ANSWER_NOW)]
                for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format"):
                    self.kwargs.pop(name, None)

    async def may_send(self) -> None:
        """Right before it is sent; what its hold lost while this process slept is not sent."""
        if self.call is not None and not self._sent:
            await self.call.may_send()
            self._sent = True

    def options(self, *, stream: bool) -> dict[str, Any]:
        told = {**self.kwargs, **self.terms.controls(self.budget)}
        return {**told, "stream_usage": True} if stream and self.kind == "openai" else told

    def seen(self, message: BaseMessage) -> None:
        """Usage as it comes: whole, or in parts of a stream."""
        if (more := getattr(message, "usage_metadata", None)) is not None:
            self.usage = add_usage(self.usage, more)

    def settle(self, error: BaseException | None = None) -> None:
        if self.call is None:
            return
        if error is not None and self.usage is None and was_refused(error):
            self.call.refund()
        else:
            # A stream that was left may have told its prompt and not its output
            whole = error is None and self.usage is not None and self.usage["output_tokens"] > 0
            self.call.settle(_usage(self.usage) if whole else None, answered=error is None)

    def _count(self, task: Task, messages: Sequence[BaseMessage]) -> int:
        """Input tokens; a bound of them matters where money is capped."""
        wire = convert_to_openai_messages(messages)
        shapes = [*(self.kwargs.get("tools") or ())]
        if shape := self.kwargs.get("response_format"):
            shapes.append({"type": "json_schema", "json_schema": shape})
        try:
            return (
                count_prompt(
                    self.terms.model.model, cast("Any", wire), shapes or None, allow=self.terms.allow
                ).tokens
                + count_prompt(self.terms.model.model, ANSWER_NOW).tokens
            )
        except UncountablePromptError:
            if any(account.nano is not None for account in task.book.account.path):
                raise
            return 0

    # Steps of an async call, which its task can stop

    async def step(self, work: Awaitable[T]) -> T:
        if self.call is None:
            return await self._inner(work)
        me, end = asyncio.current_task(), self.call.task.end()
        assert me is not None
        await self.may_send()
        self.call.check()
        self.call.on_stop = lambda: (me.cancel(), None)[1]
        try:
            async with asyncio.timeout_at(None if end is None else end()) as limit:
                return await self._inner(work)
        except asyncio.CancelledError:
            if self.call.stopped:
                me.uncancel()
            self.call.check()
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            name = self.terms.model.model
            raise DeadlineError(f"the task's time is up: the call of {name} was broken off") from error
        finally:
            self.call.on_stop = lambda: None

    async def _inner(self, work: Awaitable[T]) -> T:
        token = _inside.set(True)
        try:
            return await work
        finally:
            _inside.reset(token)


def _usage(told: UsageMetadata | None) -> Usage:
    assert told is not None
    thinking = min(told.get("output_token_details", {}).get("reasoning") or 0, told["output_tokens"])
    return Usage(
        prompt=told["input_tokens"],
        thinking=thinking,
        solution=told["output_tokens"] - thinking,
        input=told["input_tokens"],
        cached=told.get("input_token_details", {}).get("cache_read") or 0,
        passes=1,
    )


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
        if _inside.get():
            return cast("ChatResult", base._generate(self, messages, stop, run_manager, **kwargs))
        made = _Guarded(self, messages, kwargs)
        with langchain_errors():
            portal.run(made.admit())
            portal.run(made.may_send())
        error: BaseException | None = TaskClosedError("interrupted")
        token = _inside.set(True)
        try:
            result = base._generate(self, made.messages, stop, run_manager, **made.options(stream=False))
            made.seen(result.generations[0].message)
            error = None
            return cast("ChatResult", result)
        except BaseException as raised:
            error = raised
            raise
        finally:
            _inside.reset(token)
            made.settle(error)

    async def _agenerate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if _inside.get():
            return cast("ChatResult", await base._agenerate(self, messages, stop, run_manager, **kwargs))
        made = _Guarded(self, messages, kwargs)
        with langchain_errors():
            await made.admit()
            try:
                options = made.options(stream=False)
                work = base._agenerate(self, made.messages, stop, run_manager, **options)
                result = cast("ChatResult", await made.step(work))
                made.seen(result.generations[0].message)
            except BaseException as raised:
                made.settle(raised)
                raise
            made.settle()
            return result

    def _stream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if _inside.get():
            yield from base._stream(self, messages, stop, run_manager, **kwargs)
            return
        made = _Guarded(self, messages, kwargs)
        with langchain_errors():
            portal.run(made.admit())
            portal.run(made.may_send())
        chunks = base._stream(self, made.messages, stop, run_manager, **made.options(stream=True))
        try:
            while True:
                token = _inside.set(True)
                try:
                    chunk = next(chunks, None)
                finally:
                    _inside.reset(token)
                if chunk is None:
                    break
                made.seen(chunk.message)
                yield chunk
        except BaseException as raised:
            made.settle(raised)
            raise
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        made.settle()

    async def _astream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        source = base._astream
        if _inside.get():
            async for chunk in source(self, messages, stop, run_manager, **kwargs):
                yield chunk
            return
        made = _Guarded(self, messages, kwargs)
        with langchain_errors():
            await made.admit()
            try:
                options = made.options(stream=True)
                chunks = source(self, made.messages, stop, run_manager, **options)
                async with aclosing(chunks):
                    while (chunk := await made.step(anext(chunks, None))) is not None:
                        made.seen(chunk.message)
                        yield chunk
            except BaseException as raised:
                made.settle(raised)
                raise
            made.settle()

    methods: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"A {kind.__name__} under `guard`.",
        "_generate": _generate,
        "_agenerate": _agenerate,
        "is_lc_serializable": classmethod(lambda cls: False),
    }
    if kind._stream is not BaseChatModel._stream:  # LangChain looks at what is overridden
        methods["_stream"] = _stream
    if kind._astream is not BaseChatModel._astream:
        methods["_astream"] = _astream
    return type(f"Guarded{kind.__name__}", (kind,), methods)
