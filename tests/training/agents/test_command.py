"""A process per episode: what it is given, what its last line says, and every way in which it fails."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.training.agents import command as module
from elastic_agent.training.agents.clients import EpisodeGateway
from elastic_agent.training.agents.command import (
    CommandError,
    CommandTimeoutError,
    check_command,
    run_command,
)

CLIENT = {"base_url": "http://127.0.0.1:1/v1", "api_key": "eh-1"}
ROW = {"question": "über alles?\n", "total": 42}


async def run(source: str, *, seconds: float = 20.0, **options: Any) -> Any:
    """What a program in Python comes to."""
    return await run_command([sys.executable, "-c", source], ROW, CLIENT, seconds=seconds, **options)


async def test_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of JSON; where the model is; PATH and HOME, and none of the trainer's secrets."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-trainer")
    found = await run(
        "import json, os, sys\n"
        "lines = sys.stdin.readlines()\n"
        "print('thinking aloud')\n"
        "print(json.dumps({'lines': lines, 'environment': dict(os.environ)}))\n",
        caps="tokens=400, seconds=20",
        environment={"SHOP": "eu"},
    )
    (line,) = found["lines"]
    assert json.loads(line) == ROW
    given = found["environment"]
    assert {"PATH", "HOME", "OPENAI_BASE_URL", "OPENAI_API_KEY", "ELASTIC_CAPS", "SHOP"} <= set(given)
    assert (given["OPENAI_BASE_URL"], given["OPENAI_API_KEY"]) == (CLIENT["base_url"], "eh-1")
    assert (given["ELASTIC_CAPS"], given["SHOP"]) == ("tokens=400, seconds=20", "eu")
    assert set(given) <= {*module.INHERITED, "OPENAI_BASE_URL", "OPENAI_API_KEY", "ELASTIC_CAPS", "SHOP"}


@pytest.mark.parametrize(
    ("written", "value"),
    [("0.5", 0.5), ("1", 1), ("true", True), ('{"right": 1.0, "short": 0}', {"right": 1.0, "short": 0})],
)
async def test_the_last_line_is_the_reward(written: str, value: object) -> None:
    """What comes before it, blank lines behind it, and what is read of the input, don't matter."""
    assert await run(f"print('a line'); print({written!r}); print()") == value


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("print(1); raise SystemExit(3)", r"exit code 3; it wrote nothing to standard error"),
        (
            "print(1); raise KeyError('total')",
            r"(?s)exit code 1; its standard error ends:.*KeyError: 'total'",
        ),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("pass", "wrote no reward: its standard output is empty"),
        ("print('done')", "no reward .*'done'"),
        ("print('NaN')", "no reward .*'NaN'"),
        ("print('1e999')", "no reward"),
        ("print('null')", "no reward"),
        ("print('[1]')", "no reward"),
        ("print(1); print('[' * 100_000)", "no reward"),
        ("import sys; sys.stdout.buffer.write(bytes([255, 254]))", "no reward"),
    ],
)
async def test_each_failure_says_which(source: str, why: str) -> None:
    """Crashes with the end of standard error; outputs that are no reward."""
    with pytest.raises(CommandError, match=why) as failed:
        await run(source)
    assert len(str(failed.value)) < 2500
    assert not isinstance(failed.value, TimeoutError)


async def test_commands_and_rows_that_are_none() -> None:
    """No such program, at the start of a run and later; a row that JSON can't hold."""
    for bad in ([], ["no-such-program-here"], [3], [str(Path(__file__))]):
        with pytest.raises(ValueError, match=r"command is a list|there is no program"):
            check_command(bad)  # type: ignore[arg-type]
    check_command([sys.executable])
    with pytest.raises(CommandError, match="can't be started"):
        await run_command(["no-such-program-here"], ROW, CLIENT, seconds=5)
    for value in (object(), float("nan")):
        with pytest.raises(CommandError, match="can't be written as JSON"):
            await run_command([sys.executable, "-c", "print(1)"], {"x": value}, CLIENT, seconds=5)


async def test_too_much_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never stops writing is stopped, on either stream."""
    monkeypatch.setattr(module, "MOST_OUTPUT", 1 << 20)
    for stream in ("stdout", "stderr"):
        began = time.perf_counter()
        with pytest.raises(CommandError, match="more than 1 MiB of output, and was killed"):
            await run(f"import sys\nwhile True: sys.{stream}.write('x' * 4096)")
        assert time.perf_counter() - began < 10


FORK = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
open({path!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
"""


async def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs any more, soon."""
    for _ in range(200):
        if not any(running(pid) for pid in pids):
            return True
        await asyncio.sleep(0.02)
    return False


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"  # an orphan that nobody has waited for


def written(path: Path) -> list[int]:
    """The processes that a program has noted."""
    return [int(pid) for pid in path.read_text(encoding="utf-8").split()] if path.exists() else []


async def started(path: Path) -> list[int]:
    """The same, once the program has begun."""
    for _ in range(500):
        if pids := written(path):
            return pids
        await asyncio.sleep(0.02)
    raise AssertionError("the program has not begun")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
async def test_nothing_of_it_outlives_its_episode(tmp_path: Path) -> None:
    """Killed with its children at the time-out, when the episode is cancelled, and after a good end."""
    path = tmp_path / "pids"
    source = FORK.format(path=str(path))
    with pytest.raises(CommandTimeoutError, match=r"has not ended within 0\.7 s") as late:
        await run(source + "time.sleep(600)", seconds=0.7)
    assert isinstance(late.value, TimeoutError)
    assert await gone(await started(path))
    path.unlink()
    running_agent = asyncio.ensure_future(run(source + "time.sleep(600)"))
    pids = await started(path)
    running_agent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_agent
    assert await gone(pids)
    path.unlink()
    assert await run(source + "print(0.5)") == 0.5
    assert await gone(await started(path))


async def test_it_ignores_signals(tmp_path: Path) -> None:
    """A process that ignores SIGTERM and closes its output is killed all the same."""
    ignore = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.close(1)\ntime.sleep(600)"
    )
    with pytest.raises(CommandTimeoutError):
        await run(ignore, seconds=0.5)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


PYTHON = """
import json, sys
from openai import OpenAI
row, client = json.loads(sys.stdin.readline()), OpenAI()
said = client.chat.completions.create(
    model="gpt-5-mini", messages=[{"role": "user", "content": row["question"]}]
)
print(float(str(row["total"]) in said.choices[0].message.content))
"""
NODE = """
const row = JSON.parse(require("fs").readFileSync(0, "utf8"));
const {OPENAI_BASE_URL: url, OPENAI_API_KEY: key} = process.env;
(async () => {
  const response = await fetch(`${url}/chat/completions`, {
    method: "POST",
    headers: {"Content-Type": "application/json", Authorization: `Bearer ${key}`},
    body: JSON.stringify({model: "gpt-5-mini", messages: [{role: "user", content: row.question}]}),
  });
  if (!response.ok) throw new Error(await response.text());
  const said = await response.json();
  console.log(said.choices[0].message.content.includes(String(row.total)) ? 1 : 0);
})();
"""


@pytest.mark.parametrize("language", ["python", "node"])
async def test_an_agent_in_its_own_process_is_in_the_task(language: str, tmp_path: Path) -> None:
    """Plain openai in Python, plain HTTP in Node: their calls are the task's; refused, they crash, and the
    gateway knows why."""
    if language == "node" and shutil.which("node") is None:
        pytest.skip("there is no node here")
    program = tmp_path / ("agent.js" if language == "node" else "agent.py")
    program.write_text(NODE if language == "node" else PYTHON, encoding="utf-8")
    start = ["node" if language == "node" else sys.executable, str(program)]
    backend = ScriptedBackend(Reply(thinking="hm " * 60, solution="so it is 42"))
    async with BudgetScheduler(backend) as scheduler, EpisodeGateway() as gateway:
        async with scheduler.task(Caps(tokens=200)) as task:
            with gateway.episode(task):
                assert await run_command(start, ROW, gateway.client(task), seconds=30) == 1
            assert [call.outcome for call in task.report().calls] == ["answered"]
        async with scheduler.task(Caps(tokens=100), on_exhausted="raise") as task:
            with gateway.episode(task):
                await task.generate("x", thinking=70, solution=10)
                with pytest.raises(CommandError, match="exit code 1"):
                    await run_command(start, ROW, gateway.client(task), seconds=30)
                assert gateway.refused(task)


def test_caps_as_text_are_those_that_were_given() -> None:
    assert module.caps_text(Caps(tokens=1_234_567, seconds=20.0)) == "tokens=1234567, seconds=20"
    assert module.caps_text(Caps(usd="0.00012345678")) == "usd=0.00012345678"
