"""A run's log, fed to a fresh dispatcher, makes the same lines again; tampering is found (law 9)."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks._baselines import BASELINES
from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import BackendError, ElasticError
from elastic_agent.scheduler import (
    BudgetScheduler,
    LearntCurves,
    Pool,
    Price,
    account,
    task_budget,
)
from elastic_agent.scheduler import __all__ as exported
from elastic_agent.scheduler.analysis.replay import Replayed, ReplayError, replay
from elastic_agent.scheduler.estimates.agent_history import Histories
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from elastic_agent.scheduler.latency.model import Speed
from elastic_agent.scheduler.policies import POLICIES
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.policies.protocol import Choice, State
from elastic_agent.scheduler.runtime.external_call import ExternalCall, ExternalModel
from elastic_agent.scheduler.runtime.task import Task
from elastic_agent.usage import Usage
from tests.clock import run
from tests.scheduler.latency.speeds import Reading

KINDS = ("easy", "hard", "final")
MEASURED = CurveSet(
    "scripted",
    {"easy": Curve("easy", ((0, 0.1), (20, 0.8), (60, 0.9))), "hard": Curve("hard", ((0, 0.05), (90, 0.9)))},
    24,
)
_PRICE = Price("0.5", "2")


def replies(prompt: str) -> Reply:
    """The prompt says how much it thinks and writes, and whether it breaks off; words come before."""
    think, say, fails = (int(number) for number in re.findall(r"\d+", prompt)[:3])
    return Reply("hm " * think, "so " * say, fail_after=fails or None)


@dataclass(frozen=True)
class Doing:
    """One thing that a task does; `then` is done inside a task that it opens, or side by side."""

    what: Literal["call", "task", "gather", "expect", "pause"]
    kind: str = "easy"
    sizes: tuple[int, int, int] = (10, 5, 0)
    solution: int = 24
    stop_after: float | None = None
    right: bool | None = None
    how: Literal["shrink", "wait", "raise"] = "shrink"
    caps: dict[str, Any] | None = None
    agent: str | None = None
    words: int = 0
    then: tuple[Doing, ...] = ()


_call = st.builds(
    Doing,
    st.just("call"),
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(0, 120), st.integers(1, 30), st.sampled_from((0, 0, 0, 7))),
    solution=st.integers(4, 40),
    stop_after=st.sampled_from((None, None, None, 0.0, 0.05, 0.4)),
    right=st.sampled_from((None, True, False)),
    how=st.sampled_from(("shrink", "wait", "raise")),
    words=st.sampled_from((0, 0, 30, 300, 3000)),
)
_agent = st.sampled_from((None, "brief", "long"))
_caps = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(30, 700),
        "usd": st.integers(50, 2000).map(lambda n: f"{n / 1e6:.6f}"),
        "seconds": st.floats(0.2, 9.0),
    },
).filter(bool)
_other = st.sampled_from((Doing("expect", "hard"), Doing("expect", "final"), Doing("pause", stop_after=0.3)))
_doing = st.recursive(
    _call | _call | _other,
    lambda inner: st.one_of(
        st.builds(Doing, st.just("gather"), then=st.lists(inner, min_size=2, max_size=4).map(tuple)),
        st.builds(
            Doing,
            st.just("task"),
            caps=_caps,
            agent=_agent,
            then=st.lists(inner, min_size=1, max_size=3).map(tuple),
        ),
    ),
    max_leaves=9,
)
_curves = st.sampled_from(("prior", "measured", "learnt"))


BRIEF = (
    Doing("call", "easy", (9, 8, 0), words=40),
    Doing("call", "hard", (15, 5, 0), words=400),
    Doing("call", "easy", (4, 6, 0), words=4000),
    Doing("call", "final", (4, 7, 0), words=4100),
)
"""What short tasks do, with prompts of different lengths, which grow."""


async def do(task: Task, doing: Doing) -> None:
    """What the scenario says, and nothing stops it: a refusal is one more thing to be replayed."""
    if doing.what == "expect":
        task.expect({doing.kind: 2})
    elif doing.what == "pause":
        await asyncio.sleep(doing.stop_after or 0)
    elif doing.what == "gather":
        await asyncio.gather(*(do(task, one) for one in doing.then))
    elif doing.what == "task":
        with suppress(ElasticError):
            declared = None if doing.agent else {"final": 1}
            async with task.task(Caps(**(doing.caps or {})), expect=declared, agent=doing.agent) as child:
                for one in doing.then:
                    await do(child, one)
    else:
        prompt = "word " * doing.words + " ".join(map(str, doing.sizes))
        call = task.call(prompt, kind=doing.kind, solution=doing.solution, on_exhausted=doing.how)
        with suppress(ElasticError, BackendError, TimeoutError):
            async with asyncio.timeout(doing.stop_after):
                await call.run()
        if doing.right is not None:
            call.feedback(correct=doing.right)


async def play(
    path: Path,
    doings: Sequence[Doing],
    *,
    caps: Sequence[dict[str, Any]] = ({"tokens": 900},),
    curves: str = "prior",
    agents: Sequence[str | None] = (None,),
    before: Sequence[Doing] = (),
    **options: Any,
) -> None:
    """Tasks side by side, each of which does all of it, on one scheduler with a log.

    Args:
        agents: whose the tasks are, in turn; those of an agent declare nothing.
        before: what three tasks of the agent "brief" did, one after the other.
    """
    backend = Reading(replies, each=2e-4, ttft=0.02, tpot=0.005)
    given = {"prior": None, "measured": MEASURED, "learnt": LearntCurves("scripted", scale=40.0)}[curves]
    scheduler = BudgetScheduler(backend, price=_PRICE, curves=given, log=path, **options)

    async def work(cap: dict[str, Any], agent: str | None, doings: Sequence[Doing]) -> None:
        with suppress(ElasticError):
            declared = None if agent else {"easy": 2}
            async with scheduler.task(Caps(**cap), expect=declared, agent=agent) as task:
                for doing in doings:
                    await do(task, doing)

    async with scheduler:
        for _ in range(3 if before else 0):
            await work({"seconds": 900}, "brief", before)
        whose = cycle(agents)
        await asyncio.gather(*(work(cap, next(whose), doings) for cap in caps))
        scheduler.check()


def replays(path: Path) -> Replayed:
    found = replay(path)
    assert found.difference is None, (str(found.difference), found.difference)
    assert not found.cut
    assert len(found.events) == len(path.read_text(encoding="utf-8").splitlines())
    return found


@given(
    st.lists(_doing, min_size=1, max_size=5),
    st.lists(_caps, min_size=1, max_size=3),
    _curves,
    st.sampled_from((None, 1, 2)),
    st.sampled_from((None, 2)),
    st.lists(_agent, min_size=1, max_size=2),
    st.sampled_from(((), BRIEF)),
    st.booleans(),
)
@settings(max_examples=100)
def test_every_run_replays(
    doings: list[Doing],
    caps: list[dict[str, Any]],
    curves: str,
    running: int | None,
    waiting: int | None,
    agents: list[str | None],
    before: Sequence[Doing],
    known: bool,
) -> None:
    """Chains, fan-outs, nested tasks, deadlines, slots, refusals, cancellations, failures, feedback; prompts
    whose time is known, and agents whose tasks are, from this run or from one before it."""
    with TemporaryDirectory() as folder:
        path, history = Path(folder) / "run.jsonl", Path(folder) / "agents.json"
        if known:
            remember(history)
        limits = {"max_running": running, "max_waiting": waiting if running else None}
        more = {"agents": agents, "before": before, "history": history}
        run(play(path, doings, caps=caps, curves=curves, **limits, **more))
        replays(path)


@pytest.mark.parametrize(
    "pool",
    [
        Pool(tokens=600, per=5.0),
        Pool(usd="0.0009", per="day"),
        Pool(tokens=200, per=1.0, rolling=True, fair=0),
    ],
)
@pytest.mark.parametrize("store", [False, True])
def test_a_run_with_a_pool_replays(pool: Pool, store: bool, tmp_path: Path) -> None:
    """The price follows from what the log says, where other processes may spend from the pool, too."""
    path, kept = tmp_path / "run.jsonl", tmp_path / "spend.db"
    shared = {"store": kept, "accounts": [account("acme", Caps(tokens=4000))]} if store else {}
    caps = [{"tokens": 500}, {"usd": "0.002"}, {"tokens": 900}] * 2
    main = play(path, BUSY, caps=caps, curves="measured", pool=pool, **shared)
    asyncio.run(main) if store else run(main)
    found = replays(path)
    reasons = [event["why"] for event in found.events if event["event"] == "grant"]
    prices = {why["pool_price"] for why in reasons if "pool_price" in why}
    assert len(prices) > 2


def remember(path: Path) -> None:
    """A file of what tasks were like in an earlier process."""
    histories = Histories(path)
    for _ in range(4):
        histories["brief"].record(["easy", "final"], 9)
        histories["long"].record(["easy", "hard"] * 6, None)
    histories.save()


def test_what_is_known_of_agents_is_in_the_log(tmp_path: Path) -> None:
    """What a file holds is logged once, when the agent's first task opens; what this run's tasks teach
    follows from the log itself. Without it another decision comes out."""
    path, history = tmp_path / "run.jsonl", tmp_path / "agents.json"
    doings = [Doing("call", "easy", (90, 8, 0)), Doing("call", "hard", (90, 8, 0))]
    remember(history)
    tasks = {"caps": [{"tokens": 600}] * 3, "agents": ["brief", "long"]}
    run(play(path, doings, history=history, **tasks))
    logged = [event["agent"] for event in replays(path).events if event["event"] == "history"]
    assert logged == ["brief", "long"]
    _tamper(path, "history", lambda e: e.update(runs=[["easy"]] * 3), 1)
    found = replay(path)
    assert found.difference is not None
    assert found.events[found.difference.line - 1]["event"] == "grant"

    run(play(path, doings, before=BRIEF[:2], **tasks))
    found = replays(path)
    assert "history" not in {event["event"] for event in found.events}
    _tamper(path, "task_closed", lambda e: e.update(error="ValueError"), 0)
    assert replay(path).difference is not None


def test_the_time_of_prompts_is_in_the_log(tmp_path: Path) -> None:
    """What a prompt token takes, what of it is read again, and how much of each prompt was thought cached."""
    path = tmp_path / "run.jsonl"
    growing = [Doing("call", "easy", (4, 6, 0), words=1000 + 300 * i) for i in range(8)]
    doings = [Doing("call", "hard", (200, 9, 0), words=words) for words in (4000, 5000, 300, 5000)]
    run(play(path, doings, caps=[{"seconds": 4}, {"seconds": 2}], before=growing, max_running=2))
    events = replays(path).events
    speeds = [Speed(*event["speed"]) for event in events if event["event"] == "speed" and event["speed"]]
    assert any(speed.prefill > 1e-4 and speed.later < 0.5 for speed in speeds)
    loads = {event["load"] for event in events if event["event"] == "speed" and event["speed"][4]}
    assert loads > {None}
    asked = [event for event in events if event["event"] == "asked"]
    assert any(event["fresh"] < event["prompt"] / 2 for event in asked)
    late = next(i for i, event in enumerate(asked) if event["prompt"] > 5000)
    _tamper(path, "asked", lambda e: e.update(fresh=100_000), late)
    assert replay(path).difference is not None


def test_an_agent_of_another_scheduler_inside_a_task_is_said(tmp_path: Path) -> None:
    """What that one knows of it is in no log of this one."""
    path = tmp_path / "run.jsonl"

    async def main() -> None:
        other = BudgetScheduler()
        scheduler = BudgetScheduler(ScriptedBackend(replies), log=path)
        async with scheduler, scheduler.task(Caps(tokens=300), agent="brief"):
            with task_budget(tokens=200, scheduler=other, agent="brief"):
                pass

    run(main())
    with pytest.raises(ReplayError, match="what another scheduler knows of its agent"):
        replay(path)


BUSY = (
    Doing("call", "easy", (30, 8, 0), right=True),
    Doing("gather", then=tuple(Doing("call", "hard", (15 * i, 9, 0), right=i % 2 == 0) for i in range(6))),
    Doing("task", caps={"tokens": 90}, then=(Doing("call", "hard", (80, 12, 0)), Doing("call", "final"))),
    Doing("gather", then=(Doing("call", "hard", (99, 9, 0), stop_after=0.2), Doing("call", "easy"))),
    Doing("expect", "final"),
    Doing("call", "final", (60, 9, 0)),
)


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """The log of a run with nearly everything in it."""
    path = tmp_path / "run.jsonl"
    caps = [{"tokens": 500, "seconds": 30}, {"usd": "0.002", "seconds": 4}, {"tokens": 40}]
    run(play(path, BUSY, caps=caps, curves="learnt", max_running=3))
    return path


def test_the_log_has_all_that_decides(busy: Path) -> None:
    """The scenario that other tests tamper with has decisions of all sorts, and replays."""
    found = replays(busy)
    names = {event["event"] for event in found.events}
    assert names >= {"grant", "settled", "speed", "feedback", "expected", "task_closing", "pass", "curves"}
    assert found.decisions >= 20
    assert found.curves["scripted"].calls >= 8  # type: ignore[union-attr]


def _tamper(path: Path, name: str, change: Any, which: int = 3) -> int:
    """Change one event of a kind; returns its line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = [i for i, line in enumerate(lines) if json.loads(line)["event"] == name][which]
    event = json.loads(lines[at])
    change(event)
    lines[at] = json.dumps(event, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return at + 1


@pytest.mark.parametrize(
    ("name", "what", "change"),
    [
        ("grant", "granted.thinking", lambda e: e["granted"].update(thinking=e["granted"]["thinking"] + 1)),
        ("grant", "hold.tokens", lambda e: e["hold"].update(tokens=e["hold"]["tokens"] - 1)),
        ("grant", "reason", lambda e: e.update(reason="because")),
        ("settled", "charged.tokens", lambda e: e["charged"].update(tokens=e["charged"]["tokens"] - 1)),
        ("settled", "charged.tokens", lambda e: e.update(actual=[e["actual"][0] + 1, e["actual"][1]])),
        ("settled", "refund.usd", lambda e: e["refund"].update(usd=e["refund"]["usd"] / 2)),
        ("settled", "at", lambda e: e.update(now=e["now"] + 1)),
    ],
)
def test_one_number_that_was_tampered_with_is_found(busy: Path, name: str, what: str, change: Any) -> None:
    """The first difference is reported at its line, with the field and both values."""
    line = _tamper(busy, name, change)
    found = replay(busy).difference
    assert found is not None
    assert found.line == line
    assert found.what.startswith(f"{what} is ")
    assert str(found).startswith(f"line {found.line}: ")


def test_an_input_that_was_tampered_with_shows_in_what_follows(busy: Path) -> None:
    """A longer prompt: its own line is the same, and the next decision is another one."""
    line = _tamper(busy, "asked", lambda e: e.update(prompt=e["prompt"] + 100))
    found = replay(busy).difference
    assert found is not None
    assert found.line > line


def test_lines_that_are_missing_or_too_many_are_found(busy: Path) -> None:
    """A grant that was taken out, and a speed that was never read."""
    lines = busy.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "grant")
    busy.write_text("".join(lines[:at] + lines[at + 1 :]), encoding="utf-8")
    assert replay(busy).difference.line == at + 1  # type: ignore[union-attr]
    busy.write_text("".join([*lines[: at + 1], lines[at], *lines[at + 1 :]]), encoding="utf-8")
    assert replay(busy).difference.line == at + 2  # type: ignore[union-attr]
    odd = json.dumps({"event": "speed", "endpoint": "scripted", "load": None, "speed": [9, 9, 9, 9]}) + "\n"
    busy.write_text("".join([*lines[:4], odd, *lines[4:]]), encoding="utf-8")
    assert replay(busy).difference is not None


def test_a_log_replays_as_far_as_it_goes(busy: Path) -> None:
    """Cut anywhere, as a kill might: no difference up to there, and it says that a line was cut."""
    whole = busy.read_bytes()
    head = whole.index(b"\n") + 1
    for size in range(head, len(whole), len(whole) // 40):
        busy.write_bytes(whole[:size])
        found = replay(busy)
        assert found.difference is None
        assert found.cut == (whole[size - 1 : size] != b"\n")
        assert len(found.events) == whole[:size].count(b"\n")


def test_a_killed_run_replays(tmp_path: Path) -> None:
    """SIGKILL in the middle of three calls, in real time."""
    path = tmp_path / "run.jsonl"
    program = (
        "import asyncio, sys\n"
        "from elastic_agent import Caps, ScriptedBackend\n"
        "from elastic_agent.backends.scripted import Reply\n"
        "from elastic_agent.scheduler import BudgetScheduler\n"
        "async def main():\n"
        "    backend = ScriptedBackend(lambda p: Reply('hm ' * len(p)), tpot=0.0005)\n"
        "    async with BudgetScheduler(backend, log=sys.argv[1]) as scheduler:\n"
        "        async with scheduler.task(Caps(tokens=10**6, seconds=600)) as task:\n"
        "            while True:\n"
        "                await asyncio.gather(*(task.generate('x' * n) for n in (9, 40, 99)))\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=root)
    while not path.exists() or path.read_text(encoding="utf-8").count('"event": "settled"') < 12:
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    found = replay(path)
    assert found.difference is None
    assert found.decisions >= 12


def test_two_event_loops_in_threads_are_one_order(tmp_path: Path) -> None:
    """Calls of several loops on one ledger, with pilots that learn the speed at any time; five rounds."""

    def once(path: Path) -> None:
        curves = LearntCurves("scripted", scale=40.0)
        backends = [ScriptedBackend(replies, tpot=0.0002) for _ in range(2)]
        scheduler = BudgetScheduler(backends[0], price=_PRICE, curves=curves, log=path, max_running=4)
        outer = scheduler.task(Caps(tokens=60_000, seconds=120), name="outer").open()

        async def work(backend: ScriptedBackend) -> None:
            async def one(i: int) -> None:
                with suppress(ElasticError):
                    call = outer.call(f"{5 * i} 6 0", kind=KINDS[i % 2], solution=24, backend=backend)
                    await call.run()
                    call.feedback(correct=i % 3 > 0)

            await asyncio.gather(*(one(i) for i in range(12)))
            async with outer.task(Caps(tokens=400, seconds=30)) as inner:
                for i in range(4):
                    with suppress(ElasticError):
                        await inner.generate(f"{5 * i} 6 0", kind="hard", solution=24, backend=backend)

        threads = [
            threading.Thread(target=lambda b=b: asyncio.run(work(b))) for b in [*backends, backends[0]]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outer.close()
        asyncio.run(scheduler.aclose())
        assert replays(path).decisions >= 36

    for i in range(5):
        once(tmp_path / f"{i}.jsonl")


def test_raises_replay(tmp_path: Path) -> None:
    """Calls at their limits, raised by what siblings gave back."""
    path = tmp_path / "run.jsonl"
    fan = Doing(
        "gather",
        then=(
            Doing("call", "easy", (2, 2, 0), 16, how="raise"),
            Doing("call", "hard", (200, 8, 0), 16, how="raise"),
        ),
    )
    run(play(path, [fan, fan, fan], caps=[{"tokens": n} for n in (180, 240, 300, 400)], curves="measured"))
    assert "extended" in {event["event"] for event in replays(path).events}


def test_calls_of_other_models_replay(tmp_path: Path) -> None:
    """Also what the plans learnt from those that a provider counted, and not from those that broke."""

    async def main() -> None:
        model = ExternalModel("hosted")
        scheduler = BudgetScheduler(log=tmp_path / "run.jsonl")
        async with scheduler, scheduler.task(Caps(tokens=3000), expect={"call": 12}) as task:
            for i in range(12):
                call = ExternalCall(task, model, prompt=40, thinking=300, solution=60)
                await call.acquire()
                spent = Usage(prompt=40, thinking=20 + i, solution=9, passes=1)
                call.settle(None if i == 3 else spent, answered=i != 5)

    run(main())
    assert replays(tmp_path / "run.jsonl").decisions >= 12


def test_the_price_of_cache_writes_replays(tmp_path: Path) -> None:
    """What a hold counts on, the dearer price of input that a provider writes to its cache, is in the log."""
    price = Price("1", "2", "0.1", cache_write="50")

    async def main() -> None:
        scheduler = BudgetScheduler(log=tmp_path / "run.jsonl")
        async with scheduler, scheduler.task(Caps(usd="0.05")) as task:
            model = ExternalModel("hosted")
            call = ExternalCall(task, model, prompt=400, thinking=300, solution=60, price=price)
            await call.acquire()
            call.settle(Usage(prompt=400, thinking=20, solution=9, passes=1))

    run(main())
    events = replays(tmp_path / "run.jsonl").events
    (asked,) = (event for event in events if event["event"] == "asked")
    assert Price(**asked["price"]) == price
    (grant,) = (event for event in events if event["event"] == "grant")
    assert grant["hold"]["usd"] > 400 * 50e-6


def test_a_durable_run_replays(tmp_path: Path) -> None:
    """What the store says about caps, and the holds that it refuses, are told to the dispatcher like all
    else."""
    store = f"{tmp_path / 'ledger.db'}"
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]

    async def main() -> None:
        async def one(path: Path) -> None:
            options = {"store": store, "accounts": [account("acme", Caps(tokens=260))]}
            await play(path, BUSY[:2], caps=[{"tokens": 400}], **options)

        await asyncio.gather(*(one(path) for path in paths))

    asyncio.run(main())
    for path in paths:
        found = replays(path)
        assert "accounts" in {event["event"] for event in found.events}
    again = [e for p in paths for e in replay(p).events if e["event"] == "asked" and e["again"] is not None]
    assert again  # one of the two was decided on again


class Thirty:
    """A policy of one's own."""

    name = "thirty"

    def choose(self, state: State) -> Choice:
        return Choice(min(30, state.most), "always")


def test_other_policies_replay(tmp_path: Path) -> None:
    """Ours by name and parameters; yours when you pass it."""
    path = tmp_path / "run.jsonl"
    for policy in (POLICIES["uniform"](), POLICIES["fixed"](40)):
        run(play(path, BUSY, policy=policy))
        replays(path)
    run(play(path, BUSY, policy=BASELINES["Decay"](rate=0.7)))
    assert replay(path, policies=BASELINES).difference is None
    run(play(path, BUSY, policy=Thirty()))
    with pytest.raises(ReplayError, match="policies="):
        replay(path)
    assert replay(path, policies={"Thirty": Thirty}).difference is None


def test_every_policy_is_known() -> None:
    """A policy that we export can be replayed."""
    from elastic_agent import scheduler

    ours = {name for name in exported if hasattr(getattr(scheduler, name), "choose")}
    assert ours - {"AllocationPolicy"} == {policy.__name__ for policy in POLICIES.values()}
    assert Marginal in POLICIES.values()


def test_what_can_not_be_replayed_says_why(tmp_path: Path) -> None:
    """One task's log, a newer version, curves with a past, two runs in a file, no log at all."""
    path, own = tmp_path / "run.jsonl", tmp_path / "task.jsonl"

    async def main(log: Path, curves: LearntCurves | None = None) -> None:
        scheduler = BudgetScheduler(ScriptedBackend(replies), log=log, curves=curves)
        async with scheduler, scheduler.task(Caps(tokens=200), log=own) as task:
            await task.generate("9 4 0")

    learnt = LearntCurves("scripted")
    run(main(path, learnt))
    assert replay(path).difference is None
    with pytest.raises(ReplayError, match=r"task\(log=\)"):
        replay(own)
    run(main(path, learnt))
    with pytest.raises(ReplayError, match="learnt from 1 calls before"):
        replay(path)
    run(main(path))
    whole = path.read_text(encoding="utf-8")
    for schema in (1, 3):
        path.write_text(whole.replace('"schema": 2', f'"schema": {schema}'), encoding="utf-8")
        with pytest.raises(ReplayError, match=f"has schema {schema}, and this version knows 2"):
            replay(path)
    path.write_text(whole + whole, encoding="utf-8")
    with pytest.raises(ReplayError, match="two schedulers"):
        replay(path)
    for text, why in (
        ("", "holds no events"),
        ("hello\n", "line 1 is no event"),
        ("[]\n", "line 1 is no event"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ReplayError, match=why):
            replay(path)
    with pytest.raises(ReplayError, match="can't read"):
        replay(tmp_path / "nothing")


def test_calls_of_another_scheduler_inside_a_task_are_said(tmp_path: Path) -> None:
    """Their speed and usage are in no log of this scheduler: an error, not a wrong answer."""
    path = tmp_path / "run.jsonl"

    async def main() -> None:
        other = BudgetScheduler(ScriptedBackend(replies))
        scheduler = BudgetScheduler(ScriptedBackend(replies), log=path)
        async with (
            scheduler,
            scheduler.task(Caps(tokens=300)),
            task_budget(tokens=200, scheduler=other) as inner,
        ):
            await inner.generate("9 4 0")

    run(main())
    with pytest.raises(ReplayError, match="of another scheduler"):
        replay(path)
