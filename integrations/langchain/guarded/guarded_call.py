"""One call of a guarded model: held before it is sent, sent with its Budget, settled whatever happens.

`elastic_agent.charging.delivery` decides what a failed call costs; `elastic_agent.charging.provider_usage`
reads the usage that the provider states.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from elastic_agent.budget import Budget
from elastic_agent.charging.delivery import delivery_of_error
from elastic_agent.charging.provider_usage import UsageReports, charged
from elastic_agent.errors import DeadlineError, UncountablePromptError
from elastic_agent.prompts.counting import count_prompt
from elastic_agent.prompts.told_budget import content_behind
from elastic_agent.scheduler import Price, Task, current_task
from elastic_agent.scheduler.allocation.call_terms import OnExhausted
from elastic_agent.scheduler.estimates.workload import FINAL
from elastic_agent.scheduler.runtime.context import count_outside_call, counted_call
from elastic_agent.scheduler.runtime.external_call import ExternalCall, ExternalModel
from elastic_agent.validation import integer

from ..chat_models.options import ANSWER_NOW
from .prompt_tokens import SCHEMA_OPTIONS, TOOL_OPTIONS, count_input
from .providers import (
    OUTPUT,
    Controls,
    known_controls,
    model_name,
    named_model,
    options_as_fields,
    task_budget,
    thinks,
)
from .sent_requests import SentRequests, current_requests, watch_clients

T = TypeVar("T")

TASK_OPTIONS = ("kind", "final", "weight", "priority", "on_exhausted", "label")
"""Call options that are for the task, not for the provider."""
DEFAULT_OUTPUT = 4096


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """The arguments of `guard`, and what follows from them.

    Attributes:
        priced: the model that `price` is of.
        models: what the scheduler learns of each model, by name: a call may name another model.
    """

    price: Price | None
    priced: str
    max_tokens: int | None
    thinking: int | None
    allow: Mapping[str, int]
    controls: Controls | None
    on_exhausted: OnExhausted | None
    tell: bool
    models: dict[str, ExternalModel] = field(default_factory=dict, compare=False)

    def most(self, model: BaseChatModel) -> int:
        """Most output tokens of a call."""
        own = [n for name in OUTPUT if type(n := getattr(model, name, None)) is int and n > 0]
        return next((n for n in (self.max_tokens, *own) if n is not None), DEFAULT_OUTPUT)

    def budget(self, model: BaseChatModel, most: int, call: Mapping[str, Any]) -> Budget:
        """What a call asks for: the thinking of `guard`, else half, where thinking can be controlled."""
        half = most // 2 if self.controls is not None or thinks(model, call) else 0
        thinking = min(half if self.thinking is None else self.thinking, most - 1)
        return Budget(thinking, most - thinking)


class GuardedCall:
    """One guarded call. In order: `acquire`, `may_send`, `provider_options`, `received`, inside `settled`.

    Attributes:
        target: the model to call: the guarded model, or a copy with the grant in its fields.

    Args:
        model: the guarded model.
        method: the name of its method that is called.
        kwargs: the options of the call.
    """

    def __init__(
        self, model: Any, method: str, messages: list[BaseMessage], kwargs: Mapping[str, Any]
    ) -> None:
        terms = model.guard_terms
        if not isinstance(terms, GuardTerms):
            raise TypeError(
                f"a {type(model).__name__} comes out of guard(), and can't be made in another way"
            )
        self.terms, self.model, self.target, self.messages = terms, model, model, messages
        self.task_options = {name: kwargs[name] for name in TASK_OPTIONS if name in kwargs}
        self.kwargs = {name: value for name, value in kwargs.items() if name not in TASK_OPTIONS}
        if (self.kwargs.get("n") or getattr(model, "n", None) or 1) != 1:
            raise ValueError("guard holds for one answer a call: leave out n=")
        asked = [self.kwargs.pop(name) for name in OUTPUT if name in self.kwargs]
        most = min([terms.most(model), *(integer("max_tokens", n, least=1) for n in asked if n is not None)])
        self.name = named_model(self.kwargs) or model_name(model)
        self.asked = self.budget = terms.budget(model, most, self.kwargs)
        self.call: ExternalCall | None = None
        self.reports, self._arrived = UsageReports(), False
        self.requests, self._begun, self._may_send = SentRequests(), False, False
        kind = model.guard_of
        self._watched = watch_clients(model, kind, method)
        self._streams = method.endswith("stream")
        self._before = sys.exception()
        self._openai = any(base.__name__ == "BaseChatOpenAI" for base in kind.__mro__)

    # Before it is sent

    async def acquire(self) -> None:
        """Wait for the grant; outside of any task there is nothing to wait for."""
        task = current_task()
        if task is None:
            count_outside_call()
            return
        final = bool(self.task_options.get("final")) or self.task_options.get("kind") == FINAL
        answer_now = content_behind(ANSWER_NOW, task.budget_words(final=True))
        untold, self.messages = self.messages, _behind(self.messages, task.budget_words(final=final))
        self.call = ExternalCall(
            task,
            self.terms.models.setdefault(self.name, ExternalModel(self.name)),
            prompt=self._count_input(task, answer_now),
            thinking=self.asked.thinking or 0,
            solution=self.asked.solution,
            price=self.terms.price if self.name == self.terms.priced else None,
            **{"on_exhausted": self.terms.on_exhausted, **self.task_options},
        )
        self.budget = await self.call.acquire()
        if self.call.became_final:
            self.messages = [*untold, HumanMessage(answer_now)]
            for name in (*TOOL_OPTIONS, *SCHEMA_OPTIONS):
                self.kwargs.pop(name, None)

    @property
    def traced(self) -> dict[str, Any]:
        """What a tracer is told: see `note_budget`."""
        grant = None if self.call is None else self.call.grant
        return {
            "asked": {"thinking": self.asked.thinking, "solution": self.asked.solution},
            "thinking": self.budget.thinking,
            "solution": self.budget.solution,
            "reason": "no task: the model's own budget" if grant is None else grant.reason,
        }

    async def may_send(self) -> None:
        """Return, right before the call is sent, if its hold still lives: this process may have slept."""
        if self.call is not None and not self._may_send:
            await self.call.may_send()
            self._may_send = True

    def provider_options(self) -> dict[str, Any]:
        """The options that the provider's model is called with. Sets `target`."""
        controls = self.terms.controls or known_controls(self.model, self.kwargs)
        options = {**self.kwargs, **controls(self.budget)}
        if self.terms.tell and self.call is not None and (left := self.call.task.left.tokens) is not None:
            left += self.budget.solution + (self.budget.thinking or 0)
            for name, value in task_budget(self.model, self.kwargs, left).items():
                options[name] = {**options.get(name, {}), **value}
        if self._streams and self._openai and not self._asks_responses_api(options):
            options["stream_usage"] = True
        if own := {name: options.pop(name) for name in options_as_fields(self.model) if name in options}:
            self.target = self.model.model_copy(update=own)
            if isinstance(options.get("options"), Mapping):  # Ollama's, which replace the fields
                options["options"] = {**options["options"], **own}
        return options

    def _asks_responses_api(self, options: dict[str, Any]) -> bool:
        """Whether LangChain asks OpenAI's Responses API, whose streams state usage without being asked."""
        uses = getattr(self.model, "_use_responses_api", None)
        return callable(uses) and bool(uses({**(self.model.model_kwargs or {}), **options}))

    def _count_input(self, task: Task, answer_now: str) -> int:
        """Input tokens, with `answer_now`. 0 where they can't be counted and no cap is in money."""
        try:
            tokens = count_input(self.name, self.messages, self.kwargs, self.terms.allow)
            return tokens + count_prompt(self.name, answer_now).tokens
        except UncountablePromptError:
            if any(account.nano is not None for account in task.state.account.path):
                raise
            return 0

    # While it runs

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the provider's library runs, and may send."""
        self._begun = True
        counted, requests = counted_call.set(True), current_requests.set(self.requests)
        try:
            yield
        finally:
            current_requests.reset(requests)
            counted_call.reset(counted)

    async def step(self, work: Awaitable[T]) -> T:
        """Await a part of the call; the end of its task and its deadline break it off."""
        try:
            return await (self._run(work) if self.call is None else self._run_in_task(self.call, work))
        finally:
            if asyncio.iscoroutine(work):
                work.close()  # if the task had ended before, it was never awaited

    async def _run(self, work: Awaitable[T]) -> T:
        with self.running():
            return await work

    async def _run_in_task(self, call: ExternalCall, work: Awaitable[T]) -> T:
        me, end = asyncio.current_task(), call.task.end()
        assert me is not None

        def cancel() -> None:
            me.cancel()

        await self.may_send()
        call.check()
        call.on_stop = cancel
        try:
            async with asyncio.timeout_at(None if end is None else end()) as limit:
                return await self._run(work)
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

    def received(self, message: BaseMessage) -> None:
        """Take in a message, or a chunk of one: its text and the usage it states."""
        self._arrived = True
        usage = getattr(message, "usage_metadata", None)
        if usage is None:
            usage = next((message.response_metadata.get(n) for n in ("token_usage", "usage")), None)
        self.reports.add(usage)
        self.reports.add_text(message.text)

    # When it is over

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Settle the hold when the block ends, however it ends."""
        try:
            yield
        except BaseException as error:
            if self.call is not None:
                self._settle_failed(self.call, error)
            raise
        if self.call is not None:
            usage = self.reports.total()
            known = usage.input is not None and usage.output is not None
            self.call.settle(charged(usage, self.call.worst), known=known)

    def _settle_failed(self, call: ExternalCall, error: BaseException) -> None:
        # OpenAI's client raises when an answer of a given format is cut, though the answer was served
        completion = getattr(error, "completion", None)
        if not self._arrived and (usage := getattr(completion, "usage", None)) is not None:
            self.reports.add(usage.model_dump())
            call.settle(charged(self.reports.total(), call.worst), answered=False)
            return
        sent: bool | None = False
        if self._begun:
            sent = self.requests.may_have_left if self._watched else None
        if delivery_of_error(error, sent=sent, arrived=self._arrived, before=self._before).free:
            call.refund()
        else:
            call.settle(None, answered=False)


def _behind(messages: list[BaseMessage], words: str) -> list[BaseMessage]:
    """The messages with the words behind the last one; see `elastic_agent.prompts.told_budget.behind`."""
    if not words or not messages or isinstance(messages[-1], AIMessage):
        return messages
    *before, last = messages
    return [*before, last.model_copy(update={"content": content_behind(last.content, words)})]
