"""An agent's ways to the model in training: LangChain's, and the wire of OpenAI.

This is the one file of the training part that imports the integrations, inside functions. An agent in
training goes through the doors that it has in production, so these doors have to be opened here: a
`ChatElasticReasoning` on the model in training, and a gateway whose keys stand for the tasks of episodes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from elastic_agent.backends.base import Backend
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import current_task
from elastic_agent.scheduler.runtime.context import counted_servers
from elastic_agent.scheduler.runtime.task import Task

if TYPE_CHECKING:
    from elastic_agent.integrations.gateway.app import Gateway
    from elastic_agent.integrations.langchain import ChatElasticReasoning
    from elastic_agent.integrations.langchain.use_client import Client

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""For requests that still run when the episodes have ended: those of stray threads and processes."""
CONNECTIONS = 1000
"""Open at once; more would need a higher limit on open files, which the trainer's processes would inherit."""
BACKLOG = 1024
"""Connections that wait while the gateway starts."""


def make_llm(backend: Backend, **options: Any) -> ChatElasticReasoning:
    """The model that an agent is given: its calls are those of the task that they are made in.

    Args:
        options: fields of `ChatElasticReasoning`.
    """
    from elastic_agent.integrations.langchain import ChatElasticReasoning

    return ChatElasticReasoning(backend=backend, **options)


def client_of(llm: Any) -> Client:
    """Base URL and key of a client whose requests are calls of the current task."""
    from elastic_agent.integrations.langchain.use_client import use_client

    return use_client(llm)


class EpisodeGateway:
    """A gateway on a free port of this machine alone, for agents that speak the OpenAI wire.

    It is entered in the event loop of the episodes, and starts when the first agent asks for a client: a run
    of agents that ask for none has no server.

    Args:
        call_seconds: that a call may take, its time in queues included.
    """

    def __init__(self, *, call_seconds: float = 600.0) -> None:
        self._call_seconds = call_seconds
        self._lock = RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gateway: Gateway | None = None
        self._starting: asyncio.Task[None] | None = None
        self._base_url = ""
        self._keys: dict[tuple[Task, Backend | None], str] = {}
        self._refused: WeakSet[Task] = WeakSet()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._loop = None
        if self._gateway is None:
            return
        counted_servers.discard(self._base_url)
        await asyncio.sleep(0)  # where the start is scheduled, but has not begun
        if self._starting is not None:
            await asyncio.wait([self._starting])
            if self._starting.exception() is None:
                await self._gateway.stop()

    @contextmanager
    def episode(self, task: Task) -> Iterator[None]:
        """Within, `use_client(llm)` leads to the current task: this one, or a sub-task that the agent opens.

        At the end the keys of all of them end.
        """
        from elastic_agent.integrations.langchain.use_client import hosted_client

        token = hosted_client.set(lambda backend: self.client(current_task() or task, backend))
        try:
            yield
        finally:
            hosted_client.reset(token)
            self._release(task)

    def client(self, task: Task, backend: Backend | None = None) -> Client:
        """Base URL and key of a client whose requests are calls of the task. From any thread.

        Args:
            backend: the model; None: that of the task's scheduler.

        Raises:
            RuntimeError: the gateway isn't entered, or its packages are missing.
            TaskClosedError: the task has ended.
        """
        with self._lock:
            if self._loop is None:
                raise RuntimeError("the gateway of the episodes has ended, or was never entered")
            gateway = self._gateway or self._start(self._loop)
            key = self._keys.get((task, backend))
            if key is None:
                key = self._keys[task, backend] = gateway.host(task, backend)
            return {"base_url": self._base_url, "api_key": key}

    def refused(self, task: Task) -> bool:
        """Whether the last request by wire of the task, or of one of its sub-tasks, was refused for a cap.

        So the error of a client, or the exit code of a process, that follows is an outcome of the episode:
        the agent ran out of its budget.
        """
        with self._lock:
            return task in self._refused or any(self._was_refused(key) for _, key in self._keys_of(task))

    def _release(self, task: Task) -> None:
        with self._lock:
            if self.refused(task):
                self._refused.add(task)
            for owner, key in self._keys_of(task):
                del self._keys[owner]
                if self._gateway is not None:
                    self._gateway.release(key)

    def _keys_of(self, task: Task) -> list[tuple[tuple[Task, Backend | None], str]]:
        """The keys of a task and its sub-tasks."""
        return [(owner, key) for owner, key in self._keys.items() if task in owner[0].lineage()]

    def _was_refused(self, key: str) -> bool:
        hosted = None if self._gateway is None else self._gateway.hosted.find(key)
        return hosted is not None and hosted.refused

    # Its start

    def _start(self, loop: asyncio.AbstractEventLoop) -> Gateway:
        """Listen at once, and start to answer as soon as the event loop comes to it.

        An agent's `use_client` is no coroutine, so it can't wait for the start. Its first requests can.
        """
        try:
            from elastic_agent.integrations.gateway.app import Gateway
            from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits
        except ImportError as error:
            raise RuntimeError(
                "agents by wire need the gateway: pip install 'elastic-agent[gateway]'"
            ) from error
        limits = Limits(call_seconds=self._call_seconds, grace_seconds=GRACE_SECONDS, connections=CONNECTIONS)
        bound = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        gateway = self._gateway = Gateway(GatewaySettings([], limits=limits), bound=bound)
        self._base_url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        counted_servers.add(self._base_url)

        def start() -> None:
            self._starting = loop.create_task(gateway.start())
            self._starting.add_done_callback(ended)

        def ended(starting: asyncio.Task[None]) -> None:
            if starting.cancelled() or starting.exception() is not None:
                bound.close()  # clients get an error, instead of waiting
                log.error("the gateway of the episodes did not start", exc_info=starting.exception())

        # In an empty context: requests inherit it, and belong to the task of their key alone
        loop.call_soon_threadsafe(start, context=Context())
        return gateway


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that the task's budget is used up, in any form in which agents meet such errors.

    These are the errors of this library and LangChain's subclasses of them, and errors of HTTP clients
    (openai's, pydantic-ai's) that have our answer's status and code.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_refusal, error.exceptions))
    if isinstance(error, CapExceededError):
        return True
    body = getattr(error, "body", None)
    code = body.get("code") if isinstance(body, Mapping) else None
    if getattr(error, "status_code", None) in (402, 429) and code in ("cap_exceeded", "deadline_exceeded"):
        return True
    return error.__cause__ is not None and is_refusal(error.__cause__)
