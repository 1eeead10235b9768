"""A task's scope in generators, other contexts, threads and other loops: it holds, or it fails loudly."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import CapExceededError, ElasticError, ScopeError, TaskClosedError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import BudgetScheduler, Task, current_task, task_budget
from elastic_agent.scheduler.runtime import context

CAP = 60
LONG = Reply(thinking="hm " * 200, solution="so the answer is 42")


class Setup:
    """A chat model, the scheduler of its tasks, and the meter of its server."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend(LONG)
        self.llm = ChatElasticReasoning(backend=self.backend, thinking_budget=20, solution_budget=20)
        self.tasks: list[Task] = []

    def scope(self) -> Task:
        """Not entered yet."""
        self.tasks.append(task_budget(tokens=CAP))
        return self.tasks[-1]

    async def steps(self, calls: int = 6) -> AsyncIterator[str]:
        """The fault's generator: streams in a scope."""
        async with self.scope():
            for i in range(calls):
                with contextlib.suppress(CapExceededError):
                    async for chunk in self.llm.astream(f"q {i}"):
                        yield chunk.text

    def held(self) -> None:
        """Each task's cap held at the meter, its books are the meter's, nothing is left behind."""
        assert all(task.closed for task in self.tasks)
        assert self.backend.meter.output <= CAP * len(self.tasks)
        spent = sum(task.spent.tokens or 0 for task in self.tasks)
        assert self.backend.meter.output <= spent <= CAP * len(self.tasks)
        assert self.backend.meter.requests > 0
        assert not context._scopes_by_generator


@pytest.fixture
def setup() -> Setup:
    return Setup()


Step = Callable[[AsyncIterator[Any]], Awaitable[Any]]


async def waited_for(steps: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(steps), 5)


async def as_a_task(steps: AsyncIterator[Any]) -> Any:
    return await asyncio.create_task(anext(steps))  # type: ignore[arg-type]


async def in_a_wrapper(steps: AsyncIterator[Any]) -> Any:
    async def step() -> Any:
        return await anext(steps)

    return await asyncio.create_task(step())


async def in_an_empty_context(steps: AsyncIterator[Any]) -> Any:
    async def step() -> Any:
        return await anext(steps)

    return await asyncio.create_task(step(), context=contextvars.Context())


async def plainly(steps: AsyncIterator[Any]) -> Any:
    return await anext(steps)


STEPS = [waited_for, as_a_task, in_a_wrapper, in_an_empty_context, plainly]


async def drain(steps: AsyncIterator[Any], step: Step) -> None:
    with contextlib.suppress(StopAsyncIteration):
        while True:
            await step(steps)


@pytest.mark.parametrize("step", STEPS)
async def test_a_generator_keeps_its_scope_however_it_is_resumed(setup: Setup, step: Step) -> None:
    """The fault: 266 tokens at the meter, 12 in the task, under a cap of 60."""
    await drain(setup.steps(), step)
    setup.held()
    assert current_task() is None


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["ainvoke", "gather", "group", "thread", "generate"])
async def test_a_generators_branches_are_in_its_scope(setup: Setup, step: Step, way: str) -> None:
    """What a later step spawns: calls, branches, calls on threads through LangChain's own executor."""

    async def branches() -> AsyncIterator[None]:
        async with setup.scope() as task:
            yield
            for _ in range(4):
                with contextlib.suppress(CapExceededError, ExceptionGroup):
                    if way == "ainvoke":
                        await setup.llm.ainvoke("q")
                    elif way == "gather":
                        await asyncio.gather(setup.llm.ainvoke("a"), setup.llm.ainvoke("b"))
                    elif way == "group":
                        async with asyncio.TaskGroup() as group:
                            group.create_task(setup.llm.ainvoke("a"))
                            group.create_task(setup.llm.ainvoke("b"), context=contextvars.copy_context())
                    elif way == "thread":
                        scope = context.task_context()
                        await asyncio.get_running_loop().run_in_executor(
                            None, scope.run, setup.llm.invoke, "q"
                        )
                    else:
                        await task.generate("q", backend=setup.backend, thinking=20, solution=20)
                yield

    await drain(branches(), step)
    setup.held()


@pytest.mark.parametrize("step", STEPS)
async def test_an_abandoned_generator_poisons_nobody(setup: Setup, step: Step) -> None:
    """Its reader goes on outside of its scope: between the steps, after it was given up, in branches too."""
    steps = setup.steps()
    await step(steps)
    before = setup.tasks[0].spent.tokens
    assert current_task() is None
    await setup.llm.ainvoke("mine, between two steps")
    await asyncio.gather(setup.llm.ainvoke("mine"), setup.llm.ainvoke("mine"))
    assert setup.tasks[0].spent.tokens == before
    del steps
    gc.collect()
    await asyncio.sleep(0.01)
    assert setup.tasks[0].closed
    await setup.llm.ainvoke("mine")
    await asyncio.gather(setup.llm.ainvoke("mine"), setup.llm.ainvoke("mine"))
    await asyncio.to_thread(setup.llm.invoke, "mine")
    async with task_budget(tokens=500) as task:
        await setup.llm.ainvoke("mine")
    assert (task.parent, len(task.report().calls)) == (None, 1)
    assert len(setup.tasks[0].report().calls) <= 1
    assert not context._scopes_by_generator


async def test_a_reader_in_a_scope_of_its_own_keeps_it(setup: Setup) -> None:
    """Its calls between the steps are its task's; the generator's are the generator's, which is its child."""
    async with task_budget(tokens=1_000) as mine:
        async for _ in setup.steps(1):
            assert current_task() is mine
        async for _ in setup.steps(1):
            break
        gc.collect()
        await asyncio.sleep(0.01)
        assert current_task() is mine
        await setup.llm.ainvoke("mine")
    assert [task.parent for task in setup.tasks] == [mine, mine]


async def test_readers_that_are_generators_are_readers(setup: Setup) -> None:
    """A generator that reads the one with the scope is outside of it, and so is its own reader."""
    seen: list[Task | None] = []

    async def wrapper() -> AsyncIterator[str]:
        async for text in setup.steps(1):
            seen.append(current_task())
            yield text

    async for _ in wrapper():
        seen.append(current_task())
    assert set(seen) == {None}


@pytest.mark.parametrize("way", ["with", "async with", "stack", "generator"])
async def test_context_managers_give_their_scope_to_the_caller(setup: Setup, way: str) -> None:
    """Those that are made of generators too, in a generator that is resumed elsewhere too."""

    @contextlib.asynccontextmanager
    async def budget() -> AsyncIterator[None]:
        async with setup.scope():
            yield

    @contextlib.contextmanager
    def budget_of_plain_code() -> Iterator[None]:
        with setup.scope():
            yield

    async def calls() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if way in ("stack", "async with"):
                await stack.enter_async_context(budget())
            elif way == "with":
                stack.enter_context(budget_of_plain_code())
            else:
                await stack.enter_async_context(setup.scope())
            for _ in range(6):
                assert current_task() is setup.tasks[-1]
                with contextlib.suppress(CapExceededError):
                    await setup.llm.ainvoke("q")
                yield

    async for _ in calls():
        pass
    await drain(calls(), as_a_task)
    setup.held()


@pytest.mark.parametrize("way", ["threads", "contexts", "plainly"])
def test_a_sync_generator_keeps_its_scope(setup: Setup, way: str) -> None:
    """Web servers ask for each item on some thread, in a copy of the context."""

    def steps() -> Iterator[str]:
        with setup.scope():
            for i in range(6):
                with contextlib.suppress(CapExceededError):
                    for chunk in setup.llm.stream(f"q {i}"):
                        yield chunk.text
                with contextlib.suppress(CapExceededError):
                    yield asyncio.run(setup.llm.ainvoke(f"r {i}")).text

    running, done = steps(), object()
    with ThreadPoolExecutor(3) as pool:
        for _ in range(1_000):
            if way == "threads":
                item = pool.submit(contextvars.copy_context().run, next, running, done).result()
            elif way == "contexts":
                item = contextvars.Context().run(next, running, done)
            else:
                item = next(running, done)
            assert current_task() is None
            if item is done:
                break
    setup.held()


def test_an_abandoned_sync_generator_poisons_nobody(setup: Setup) -> None:
    """`for ...: break`, and then a call of one's own, here and on a thread."""

    def steps() -> Iterator[str]:
        with setup.scope():
            yield setup.llm.invoke("q").text
            yield setup.llm.invoke("q").text

    for _ in steps():
        assert current_task() is None
        break
    gc.collect()
    assert setup.tasks[0].closed
    setup.llm.invoke("mine")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, setup.llm.invoke, "mine").result()
    assert len(setup.tasks[0].report().calls) == 1


async def test_a_context_manager_that_nobody_can_know_for_one_is_told(setup: Setup) -> None:
    """A generator that is resumed by hand around other code: its scope is its own, and it says so."""

    def by_hand() -> Iterator[None]:
        with setup.scope():
            yield

    running = by_hand()
    next(running)
    await setup.llm.ainvoke("q")
    with pytest.raises(ScopeError, match="1 model calls were made outside of any task"):
        next(running, None)


@pytest.fixture
def budget(setup: Setup) -> Iterator[Task]:
    with setup.scope() as task:
        yield task


@pytest.fixture
async def budget_of_a_loop(setup: Setup) -> AsyncIterator[Task]:
    async with setup.scope() as task:
        yield task


async def test_fixtures_give_their_scope_to_the_test(setup: Setup, budget: Task) -> None:
    """pytest makes a context manager of a generator."""
    assert current_task() is budget
    await asyncio.gather(setup.llm.ainvoke("q"))
    assert len(budget.report().calls) == 1


async def test_async_fixtures_give_their_scope_to_the_test(setup: Setup, budget_of_a_loop: Task) -> None:
    """pytest-asyncio as well."""
    assert current_task() is budget_of_a_loop
    await asyncio.to_thread(setup.llm.invoke, "q")
    assert len(budget_of_a_loop.report().calls) == 1


async def test_a_task_that_missed_its_calls_says_so(setup: Setup) -> None:
    """Entered in a context that nobody else has, such as a thread's: its calls went by. Loud at the end."""

    def fixture() -> Iterator[None]:
        with setup.scope():
            yield

    running = fixture()
    await asyncio.to_thread(next, running)
    await setup.llm.ainvoke("q")
    with pytest.raises(ScopeError, match="1 model calls were made outside of any task"):
        await asyncio.to_thread(next, running, None)
    assert setup.tasks[0].closed


async def test_a_task_that_may_have_missed_calls_warns(setup: Setup) -> None:
    """It had calls of its own, so the others may be somebody else's: a warning. None without others."""
    task = setup.scope()
    await asyncio.create_task(task.__aenter__())
    await task.generate("q", backend=setup.backend, thinking=9, solution=9)
    await asyncio.create_task(task.__aexit__(None, None, None))

    task = setup.scope()
    await asyncio.create_task(task.__aenter__())
    await task.generate("q", backend=setup.backend, thinking=9, solution=9)
    await setup.llm.ainvoke("q")
    with pytest.warns(RuntimeWarning, match="code that its scope did not reach"):
        await asyncio.create_task(task.__aexit__(None, None, None))


async def test_scopes_that_are_left_out_of_order_leave_nothing_behind(setup: Setup) -> None:
    """The outer one first: what is inside refuses; then the code outside is in no task."""
    outer, inner = setup.scope(), setup.scope()
    await outer.__aenter__()
    await inner.__aenter__()
    await outer.__aexit__(None, None, None)
    with pytest.raises(TaskClosedError):
        await setup.llm.ainvoke("q")
    await inner.__aexit__(None, None, None)
    assert current_task() is None
    await setup.llm.ainvoke("mine")


async def test_a_straggler_of_a_task_is_refused(setup: Setup) -> None:
    """What was spawned inside and goes on after the end is not free of the caps."""
    gate = asyncio.Event()

    async def later() -> None:
        await gate.wait()
        await setup.llm.ainvoke("late")

    async def spawning() -> AsyncIterator[asyncio.Task[None]]:
        async with setup.scope():
            yield asyncio.create_task(later())
            yield asyncio.create_task(later())

    stragglers = [straggler async for straggler in spawning()]
    gate.set()
    for straggler in stragglers:
        with pytest.raises(TaskClosedError):
            await straggler


def test_other_loops_inside_are_inside(setup: Setup) -> None:
    """`asyncio.run` in plain code, and on threads that were given the context."""
    with setup.scope():
        for _ in range(3):
            with contextlib.suppress(CapExceededError):
                asyncio.run(setup.llm.ainvoke("q"))

        def calls() -> None:
            with contextlib.suppress(CapExceededError):
                asyncio.run(setup.llm.ainvoke("q"))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(calls,))
        thread.start()
        thread.join()
    setup.held()


async def test_a_tasks_own_factory_is_kept(setup: Setup) -> None:
    """A loop that spawns tasks in its own way goes on doing so."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(getattr(coro, "__qualname__", ""))
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    await drain(setup.steps(2), in_a_wrapper)
    setup.held()
    assert any("in_a_wrapper" in name for name in made)


async def test_schedulers_are_the_scopes_own(setup: Setup) -> None:
    """A child opened in a generator's later step is the child of the generator's task."""
    scheduler = BudgetScheduler(setup.backend)

    async def nested() -> AsyncIterator[Task]:
        async with task_budget(tokens=100, scheduler=scheduler):
            for _ in range(2):
                async with task_budget(tokens=50) as inner:
                    yield inner

    running = nested()
    first, second = await as_a_task(running), await waited_for(running)
    assert first.parent is second.parent
    assert first.parent is not None
    await drain(running, as_a_task)
    scheduler.check()


@pytest.mark.parametrize("own", [0, 1])
def test_a_thread_without_a_context_is_told(setup: Setup, own: int) -> None:
    """A bare thread pool loses the scope: an error where no call came through, else a warning."""

    def branches() -> None:
        with setup.scope(), ThreadPoolExecutor(2) as pool:
            for _ in range(own):
                setup.llm.invoke("q")
            list(pool.map(setup.llm.invoke, ["a", "b"]))

    if own:
        with pytest.warns(RuntimeWarning, match=r"2 model calls .*copy_context\(\).run"):
            branches()
    else:
        with pytest.raises(ScopeError, match="2 model calls"):
            branches()


def test_a_thread_pool_with_the_context_is_inside(setup: Setup) -> None:
    """The way that the documentation names."""
    with setup.scope(), ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            with contextlib.suppress(CapExceededError):
                pool.submit(contextvars.copy_context().run, setup.llm.invoke, "q").result()
    setup.held()


def test_a_forked_process_can_not_spend_its_copy_of_a_cap(setup: Setup) -> None:
    """A process pool in a task: each child has the books, and would grant the whole cap again."""
    _forked.append(setup.llm)
    with setup.scope(), ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert "was forked inside of it" in pool.submit(_refused).result()


_forked: list[ChatElasticReasoning] = []


def _refused() -> str:
    task = current_task()
    assert task is not None
    with pytest.raises(ScopeError):
        task_budget(tokens=5).open()
    with pytest.raises(ScopeError):
        task.call("q")
    try:
        _forked[-1].invoke("q")
    except ElasticError as error:
        return str(error)
    return "not refused"
