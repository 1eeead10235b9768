"""LangChain models inside a task that the task can't count: a warning, or a refusal before the call is sent.

Counted are the models of this package, those under `guard`, and those at `counted_servers`; LangChain's
callbacks see the calls of all others. Each task has a callback handler, which LangChain asks for
(`register_configure_hook`) and hands on to everything that a run starts. So callbacks carry the scope, too:
when a counted model is called in a run that began in the task, on a thread that lost the context, the handler
makes the task current for the call.

This module is the scheduler's adapter to LangChain: it is loaded when a scope is entered and LangChain is
loaded already.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.tracers.context import register_configure_hook

from elastic_agent.errors import UncountedModelError

from .context import TaskScope, counted_call, counted_servers, current_task

if TYPE_CHECKING:
    from .task import Task


class RefusedModelError(UncountedModelError, ModelInvalidRequestError, ValueError):
    """An UncountedModelError that LangChain doesn't retry."""


class UncountedModels(BaseCallbackHandler):
    """LangChain's callback handler for the runs of one task: warns of models that the task can't count."""

    raise_error = True
    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_custom_event = True

    def __init__(self, task: Task) -> None:
        self._task = task
        self._warned: set[str] = set()
        self._carried: dict[UUID, TaskScope] = {}

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: Sequence[Any], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is about to be called.

        Raises:
            RefusedModelError: the model isn't counted, and the task refuses such models.
        """
        self._start(serialized, run_id, kwargs.get("invocation_params") or {})

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A text model is about to be called; as above."""
        self._start(serialized, run_id, kwargs.get("invocation_params") or {})

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has answered."""
        self._end(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has failed."""
        self._end(run_id)

    def _start(self, serialized: dict[str, Any] | None, run_id: UUID, params: dict[str, Any]) -> None:
        here = current_task()
        lost = here is not self._task and (here is None or here in self._task.lineage())
        if self._task.closed or not (here is self._task or lost) or counted_call.get():
            return
        path = [str(part) for part in (serialized or {}).get("id") or ["an unknown model"]]
        if path[0] == "elastic_agent" or str(params.get("_type")).startswith("elastic-reasoning"):
            if lost:
                scope = self._carried[run_id] = TaskScope(self._task)
                scope.__enter__()
            return
        if counted_servers and not counted_servers.isdisjoint(_texts((serialized or {}).get("kwargs"))):
            return
        name, way = path[-1], self._task.uncounted
        if way == "ignore" or (way == "warn" and name in self._warned):
            return
        self._warned.add(name)
        said = (
            f"{name} is called inside of task {self._task.name!r}, which can't count it: the task's caps "
            f"don't hold for this model. Put it under guard(model, price=...) of "
            f"elastic_agent.integrations.langchain"
        )
        if way == "refuse":
            raise RefusedModelError(f'{said}, or let it pass with uncounted="warn" or "ignore"')
        warnings.warn(f'{said}; uncounted="refuse" refuses such calls, "ignore" is silent', RuntimeWarning, 2)

    def _end(self, run_id: UUID) -> None:
        if (scope := self._carried.pop(run_id, None)) is not None:
            scope.__exit__(*sys.exc_info())


def _texts(fields: Any) -> set[str]:
    """The fields of a model that are texts: its server's address, for example."""
    return {str(value).rstrip("/") for value in (fields or {}).values() if isinstance(value, str)}


class _CurrentHandler:
    """The handler of the current task: LangChain asks it as it asks a context variable."""

    def __init__(self) -> None:
        self._handlers: WeakKeyDictionary[Task, UncountedModels] = WeakKeyDictionary()

    def get(self) -> UncountedModels | None:
        task = current_task()
        if task is None or task.closed:
            return None
        if (handler := self._handlers.get(task)) is None:
            handler = self._handlers.setdefault(task, UncountedModels(task))
        return handler


register_configure_hook(cast("Any", _CurrentHandler()), inheritable=True)
