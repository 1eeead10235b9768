"""One call of a guarded model: held before it is sent, told its Budget, settled whatever happens.

What became of it decides `elastic_agent.charging.delivery`; what its provider says that it used reads
`elastic_agent.charging.provider_usage`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.utils.function_calling import convert_to_openai_tool

from elastic_agent.budget import Budget
from elastic_agent.charging.delivery import of_error
from elastic_agent.charging.provider_usage import Reports, charged
from elastic_agent.errors import DeadlineError, UncountablePromptError
from elastic_agent.prompts.counting import count_prompt
from elastic_agent.scheduler import Price, Task, current_task
from elastic_agent.scheduler.allocation.request import OnExhausted
from elastic_agent.scheduler.runtime.context import counted_call, outside
from elastic_agent.scheduler.runtime.external_call import ForeignCall, ForeignModel
from elastic_agent.validation import integer

from ..chat_models.options import ANSWER_NOW
from .clients import Wire, inside, watch
from .providers import (
    OUTPUT,
    Controls,
    fields,
    known_controls,
    model_name,
    named,
    task_budget,
    thinks,
)

T = TypeVar("T")

_OURS = ("kind", "final", "weight", "priority", "on_exhausted", "label")
"""Call options that are for the task, not for the provider."""
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
_SCHEMAS = ("response_format", "response_schema", "response_json_schema", "text", "format", "output_config")
"""Call options that hold a schema for the answer, which is read like a tool's."""
DEFAULT_OUTPUT = 4096


@dataclass(frozen=True, slots=True)
class Guard:
    """The terms under which a model is guarded; the arguments of `guard`.

    Attributes:
        priced: the model that `price` is of.
        models: what is learnt of each model, by name: a call may name another one.
    """

    price: Price | None
    priced: str
    max_tokens: int | None
    thinking: int | None
    allow: Mapping[str, int]
    controls: Controls | None
    on_exhausted: OnExhausted | None
    tell: bool
    models: dict[str, ForeignModel] = field(default_factory=dict, compare=False)

    def most(self, model: BaseChatModel) -> int:
        """Most output tokens of a call."""
        own = [n for name in OUTPUT if type(n := getattr(model, name, None)) is int and n > 0]
        return next((n for n in (self.max_tokens, *own) if n is not None), DEFAULT_OUTPUT)

    def budget(self, model: BaseChatModel, most: int, call: Mapping[str, Any]) -> Budget:
        """What a call asks for: half for thinking where the model has a control for it, or as was said."""
        half = most // 2 if self.controls is not None or thinks(model, call) else 0
        thinking = min(half if self.thinking is None else self.thinking, most - 1)
        return Budget(thinking, most - thinking)


class GuardedCall:
    """One guarded call.

    Attributes:
        target: whom to call: the model, or a copy with the grant in its fields.

    Args:
        model: the guarded model.
        kind: its class without guard's.
        method: that is called of it.
        kwargs: the options of the call.
    """

    def __init__(
        self,
        model: Any,
        kind: type[BaseChatModel],
        method: str,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
    ) -> None:
        terms = model.guard_terms
        if not isinstance(terms, Guard):
            raise TypeError(
                f"a {type(model).__name__} comes out of guard(), and can't be made in another way"
            )
        self.terms, self.model, self.target, self.messages = terms, model, model, messages
        self.own = {name: kwargs[name] for name in _OURS if name in kwargs}
        self.kwargs = {name: value for name, value in kwargs.items() if name not in _OURS}
        if (self.kwargs.get("n") or getattr(model, "n", None) or 1) != 1:
            raise ValueError("guard holds for one answer a call: leave out n=")
        asked = [self.kwargs.pop(name) for name in OUTPUT if name in self.kwargs]
        most = min([terms.most(model), *(integer("max_tokens", n, least=1) for n in asked if n is not None)])
        self.name = named(self.kwargs) or model_name(model)
        self.wish = self.budget = terms.budget(model, most, self.kwargs)
        self.call: ForeignCall | None = None
        self.reports, self.arrived, self.begun = Reports(), False, False
        self.wire = Wire()
        self._sent = False
        self._watched = watch(model, kind, method)
        self._streams = method.endswith("stream")
        self._before = sys.exception()
        self._openai = any(base.__name__ == "BaseChatOpenAI" for base in kind.__mro__)

    # What comes before and after, whichever way the call is made

    async def admit(self) -> None:
        """Wait for the grant."""
        task = current_task()
        if task is None:
            outside()
        else:
            self.call = ForeignCall(
                task,
                self.terms.models.setdefault(self.name, ForeignModel(self.name)),
                prompt=self._count(task, self.messages),
                thinking=self.wish.thinking or 0,
                solution=self.wish.solution,
                price=self.terms.price if self.name == self.terms.priced else None,
                **{"on_exhausted": self.terms.on_exhausted, **self.own},
            )
            self.budget = await self.call.admit()
            if self.call.turned:
                self.messages = [*self.messages, HumanMessage(ANSWER_NOW)]
                for name in (*_TOOLS, *_SCHEMAS):
                    self.kwargs.pop(name, None)

    async def may_send(self) -> None:
        """Right before it is sent; what its hold lost while this process slept is not sent."""
        if self.call is not None and not self._sent:
            await self.call.may_send()
            self._sent = True

    def options(self) -> dict[str, Any]:
        """What the provider's model is called with."""
        told = {**self.kwargs, **self._controls()(self.budget)}
        if self.terms.tell and self.call is not None and (left := self.call.task.left.tokens) is not None:
            left += self.budget.solution + (self.budget.thinking or 0)
            advice = task_budget(self.model, self.kwargs, left)
            for name, value in advice.items():
                told[name] = {**told.get(name, {}), **value}
        if self._streams and self._openai and not self._responses(told):
            told["stream_usage"] = True
        if own := {name: told.pop(name) for name in fields(self.model) if name in told}:
            self.target = self.model.model_copy(update=own)
            if isinstance(told.get("options"), Mapping):  # Ollama's, which replace the fields
                told["options"] = {**told["options"], **own}
        return told

    def seen(self, message: BaseMessage) -> None:
        """A message, or a piece of one, has come."""
        self.arrived = True
        told = getattr(message, "usage_metadata", None)
        if told is None:
            told = next((message.response_metadata.get(n) for n in ("token_usage", "usage")), None)
        self.reports.add(told)
        self.reports.came(message.text)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Settle the hold, however it ends."""
        try:
            yield
        except BaseException as error:
            self._failed(error)
            raise
        if self.call is not None:
            told = self.reports.whole()
            known = told.input is not None and told.output is not None
            self.call.settle(charged(told, self.call.worst), known=known)

    def _failed(self, error: BaseException) -> None:
        if self.call is None:
            return
        whole_answer = getattr(
            error, "completion", None
        )  # cut in the middle of a format: served, and counted
        if not self.arrived and (usage := getattr(whole_answer, "usage", None)) is not None:
            self.reports.add(usage.model_dump())
            self.call.settle(charged(self.reports.whole(), self.call.worst), answered=False)
            return
        sent = (self.wire.left if self._watched else None) if self.begun else False
        if of_error(error, sent=sent, arrived=self.arrived, before=self._before).free:
            self.call.refund()
        else:
            self.call.settle(None, answered=False)

    def _controls(self) -> Controls:
        return self.terms.controls or known_controls(self.model, self.kwargs)

    def _responses(self, told: dict[str, Any]) -> bool:
        """Whether LangChain asks OpenAI's Responses API, which tells usage by itself."""
        uses = getattr(self.model, "_use_responses_api", None)
        return callable(uses) and bool(uses({**(self.model.model_kwargs or {}), **told}))

    def _count(self, task: Task, messages: Sequence[BaseMessage]) -> int:
        """Input tokens; a bound of them matters where money is capped."""
        try:
            wire = convert_to_openai_messages(messages)
            shapes = [
                _json(tool) for tool in (*_list(self.kwargs, "tools"), *_list(self.kwargs, "functions"))
            ]
            for name in _SCHEMAS:
                if (shape := self.kwargs.get(name)) is not None:
                    shapes.append({"type": "json_schema", "json_schema": _json(shape)})
            return (
                count_prompt(self.name, cast("Any", wire), shapes or None, allow=self.terms.allow).tokens
                + count_prompt(self.name, ANSWER_NOW).tokens
            )
        except UncountablePromptError:
            if any(account.nano is not None for account in task.book.account.path):
                raise
            return 0

    # Steps of an async call, which its task can stop

    async def step(self, work: Awaitable[T]) -> T:
        """Await a part of the call; its task's end and its deadline break it off."""
        try:
            return await (self._inner(work) if self.call is None else self._stoppable(self.call, work))
        finally:
            if asyncio.iscoroutine(work):
                work.close()  # it was never awaited, if the task had ended before

    async def _stoppable(self, call: ForeignCall, work: Awaitable[T]) -> T:
        me, end = asyncio.current_task(), call.task.end()
        assert me is not None
        await self.may_send()
        call.check()
        call.on_stop = lambda: (me.cancel(), None)[1]
        try:
            async with asyncio.timeout_at(None if end is None else end()) as limit:
                return await self._inner(work)
        except asyncio.CancelledError:
            if call.stopped:
                me.uncancel()
            call.check()
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(f"the task's time is up: the call of {self.name} was broken off") from error
        finally:
            call.on_stop = lambda: None

    async def _inner(self, work: Awaitable[T]) -> T:
        with self.running():
            return await work

    @contextmanager
    def running(self) -> Iterator[None]:
        """Code of the provider's library runs, and may send."""
        self.begun = True
        counted, wire = counted_call.set(True), inside.set(self.wire)
        try:
            yield
        finally:
            inside.reset(wire)
            counted_call.reset(counted)


def _list(kwargs: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = kwargs.get(name)
    return found if isinstance(found, list | tuple) else []


def _json(shape: Any) -> Any:
    """A schema as it goes over the wire: classes by LangChain's own conversion.

    Raises:
        UncountablePromptError: it is no schema that LangChain knows.
    """
    try:
        if isinstance(shape, Mapping):
            return json.loads(json.dumps(shape, default=_json))
        return convert_to_openai_tool(shape)
    except (TypeError, ValueError) as error:
        raise UncountablePromptError(
            f"{shape!r:.80} can't be counted: give a dict as on the wire, a pydantic class or a TypedDict"
        ) from error
