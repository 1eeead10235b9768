"""Which task a piece of code belongs to.

A task is current where it was entered: in the code inside of its `with`, and in whatever that code awaits,
spawns, or runs in a copied context. A context variable carries it. That is enough for functions and
coroutines, whose body runs in one context from start to end. It is not enough for generators: each step of a
generator runs in the context of the code that asks for the next item. Two things would go wrong there:

- A step in another context would not see the variable, and its calls would be in no task
  (`asyncio.wait_for(g.__anext__(), 5)` makes a task for each step on Python 3.11; a web server runs each
  `next` on a thread).
- The variable, set in the first step, would stay set for the code that reads the generator: between the
  steps, and after that code has given the generator up.

So a scope that is entered beneath a generator belongs to the innermost generator that runs at that moment,
known by its frame. Code with this frame on its call stack is inside, whatever the variable says. Code of the
same asyncio task (or thread) without this frame reads the generator, and is outside. Elsewhere the variable
decides, and tasks that are spawned on an event loop get the scope of the call stack that creates them. A
generator that `contextlib` or a test's fixture resumes is a context manager, and has no reader.

Two cases can't be seen in this way: calls on threads that were started without a context (a plain
`ThreadPoolExecutor`), and a scope that is entered on one thread while its calls are made on another. They
raise `ScopeError` when the scope is left, or warn where the calls may belong to other code.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from importlib import import_module
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR, CO_ITERABLE_COROUTINE
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import ref

from elastic_agent.errors import ScopeError

if TYPE_CHECKING:
    from .task import Task

_current: ContextVar[TaskScope | None] = ContextVar("elastic_agent_task", default=None)
_scopes_by_generator: dict[FrameType, list[TaskScope]] = {}
"""Open scopes that were entered beneath a generator, by its frame, innermost last."""
_lock = threading.RLock()  # re-entrant: a generator may be collected, and leave its scope, at any moment
Uncounted = Literal["warn", "refuse", "ignore"]
"""What happens when a LangChain model that can't be counted is called inside a task: a warning (one for each
task and class of model), an error before the call is sent, or nothing."""
counted_call: ContextVar[bool] = ContextVar("elastic_agent_counted_call", default=False)
"""Whether a counted model is being called; calls that its library makes meanwhile are parts of that call."""
counted_servers: set[str] = set()
"""Base URLs of this process' servers whose answers are calls of the tasks here: models there are counted."""
_has_context: ContextVar[bool] = ContextVar("elastic_agent_known", default=False)
"""False in the empty context of a thread that was started without one."""
_has_context.set(True)
_outside_calls, _outside_without_context = 0, 0
"""Calls of counted models so far that belonged to no task, and how many of them came from threads without a
context."""


class TaskScope:
    """One `with` around a piece of code that belongs to a task; it neither opens nor closes the task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._exited = False
        self._generator: FrameType | None = None
        self._bypassed = False

    def __enter__(self) -> None:
        self._previous = _current.get()
        self._enclosing = current_scope()
        self._generator = _generator_of(sys._getframe(1))
        self._runner = _runner()
        self._outside_calls, self._outside_without_context = _outside_calls, _outside_without_context
        _current.set(self)
        _has_context.set(True)
        if "langchain_core.callbacks.manager" in sys.modules:
            import_module("elastic_agent.scheduler.runtime.uncounted")
        if self._generator is not None:
            with _lock:
                _scopes_by_generator.setdefault(self._generator, []).append(self)
            _install_task_factory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore what was current before.

        Raises:
            ScopeError: none of the task's calls was made, and others that were probably meant for it were
                made outside of any task.
        """
        self._exited = True
        if self._generator is not None:
            with _lock:
                _scopes_by_generator[self._generator].remove(self)
                if not _scopes_by_generator[self._generator]:
                    del _scopes_by_generator[self._generator]
        here = _current.get()
        if here is self:
            before = self._previous
            while before is not None and before._exited:  # scopes were left in another order than entered
                before = before._previous
            _current.set(before)
        elif here is None or not here._is_within(self):
            self._bypassed = True
        bare = _outside_without_context - self._outside_without_context
        missed = _outside_calls - self._outside_calls if self._bypassed else bare
        if missed and not isinstance(error, GeneratorExit):
            self._report_missed(missed, error, reader=here is self and not bare)

    def _is_within(self, other: TaskScope) -> bool:
        """Whether this scope was entered where `other` was current, at any depth."""
        scope: TaskScope | None = self
        while scope is not None and scope is not other:
            scope = scope._enclosing
        return scope is other

    def _report_missed(self, missed: int, error: BaseException | None, *, reader: bool) -> None:
        """Raise where the task had no call at all; warn where it had some, unless the missed calls can only
        be those of a generator's reader."""
        said = (
            f"while task {self.task.name!r} was open, {missed} model calls were made outside of any task, in "
            f"code that its scope did not reach: if they were meant for it, its caps did not hold. Enter the "
            f"task where its calls are made, or put `with task.current():` around them; give a thread its "
            f"context with contextvars.copy_context().run"
        )
        if error is None and not self.task.report().calls:
            raise ScopeError(said)
        if not reader:
            warnings.warn(said, RuntimeWarning, stacklevel=4)

    def _is_read_here(self, stack: dict[FrameType, None]) -> bool:
        """Whether the code with this call stack reads the generator that the scope is in."""
        return self._generator is not None and self._generator not in stack and self._runs_here()

    def _is_abandoned_here(self) -> bool:
        """Whether the scope was left with its generator, and is still set in the context of the reader."""
        return self._exited and self._generator is not None and (self._runs_here() or _asyncio_task() is None)

    def _runs_here(self) -> bool:
        return self._runner == (threading.get_ident() if isinstance(self._runner, int) else _runner())


def current_scope() -> TaskScope | None:
    """The innermost scope that this code is in; None outside of any."""
    scope = _current.get()
    if not _scopes_by_generator and (scope is None or not scope._exited):
        return scope
    return _resolved(scope, sys._getframe(1))


def _resolved(scope: TaskScope | None, frame: FrameType | None) -> TaskScope | None:
    """The scope of code with the call stack that ends in `frame`, where the context variable says `scope`."""
    stack: dict[FrameType, None] = {}
    while frame is not None:
        stack[frame] = None
        frame = frame.f_back
    while scope is not None and (scope._is_abandoned_here() or scope._is_read_here(stack)):
        scope._bypassed = True
        scope = scope._previous
    with _lock:
        found = next(
            (_scopes_by_generator[frame][-1] for frame in stack if frame in _scopes_by_generator), None
        )
    if found is not None and (scope is None or not scope._is_within(found)):
        return found
    return scope


def current_task() -> Task | None:
    """The task that this code is in; one that has ended already refuses calls. None outside of any."""
    scope = current_scope()
    return None if scope is None else scope.task


def task_context() -> Context:
    """A copy of this context, in which this code's task is current, for code that runs elsewhere: on another
    thread's loop, say."""
    context = copy_context()
    scope = current_scope()
    if scope is not context.get(_current):
        context.run(_current.set, scope)
    return context


def check_uncounted(way: Uncounted | None) -> None:
    """Raise ValueError unless the value is one of `Uncounted`, or None."""
    if way is not None and way not in get_args(Uncounted):
        raise ValueError(f"uncounted must be one of {', '.join(get_args(Uncounted))}, not {way!r}")


def count_outside_call() -> None:
    """Count a call of a counted model that is in no task."""
    global _outside_calls, _outside_without_context
    _outside_calls += 1
    _outside_without_context += not _has_context.get()


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _runner() -> object:
    """The asyncio task that runs this code; outside of any, the thread."""
    task = _asyncio_task()
    return threading.get_ident() if task is None else ref(task)


_GENERATOR = CO_GENERATOR | CO_ASYNC_GENERATOR
_MAKE_MANAGERS = ("contextlib", "_pytest.fixtures", "pytest_asyncio.plugin")
"""Modules that make context managers of generators."""


def _generator_of(frame: FrameType | None) -> FrameType | None:
    """The innermost generator on a call stack that is read, and no context manager."""
    while frame is not None:
        flags, resumed_by = frame.f_code.co_flags, frame.f_back
        if flags & _GENERATOR and not flags & CO_ITERABLE_COROUTINE:
            module = None if resumed_by is None else resumed_by.f_globals.get("__name__")
            if module not in _MAKE_MANAGERS:
                return frame
        frame = resumed_by
    return None


class _TaskFactory:
    """A loop's task factory: spawns each task with the scope of the call stack that creates it. The context
    of that code may have another scope: see the module."""

    def __init__(self, under: Callable[..., Any] | None) -> None:
        self._under = under or _plain_task

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        given: Context | None = options.get("context")
        said = _current.get() if given is None else given.get(_current)
        if _scopes_by_generator or (said is not None and said._exited):
            scope = _resolved(said, sys._getframe(1))
            if scope is not said:
                if given is None:
                    return copy_context().run(self._spawn, scope, loop, coro, options)
                given.run(_current.set, scope)
        return self._under(loop, coro, **options)

    def _spawn(
        self, scope: TaskScope | None, loop: asyncio.AbstractEventLoop, coro: Any, options: dict[str, Any]
    ) -> Any:
        _current.set(scope)
        return self._under(loop, coro, **options)


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


def _install_task_factory() -> None:
    """Have this event loop spawn tasks by `_TaskFactory` from now on."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if not isinstance(under := loop.get_task_factory(), _TaskFactory):
        loop.set_task_factory(_TaskFactory(under))
