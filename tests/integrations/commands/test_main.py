"""The command line: what a newcomer types, right and wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.demo.problems import SHOP_WEEK
from elastic_agent.scheduler import BudgetScheduler, Price
from tests import wire

pytestmark = pytest.mark.skipif(
    not (Path(__file__).parents[3] / "elastic_agent/models/e1-tiny/model.safetensors").exists(),
    reason="the embedded model is not in this tree",
)


@pytest.fixture
def one_day(tmp_path: Path) -> Path:
    """The first day of the shipped week, with one chain left out: seven calls."""
    day = json.loads(SHOP_WEEK.read_text().splitlines()[0])
    path = tmp_path / "day.jsonl"
    path.write_text(json.dumps(day) + "\n")
    return path


def _demo(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    status = main(["demo", "--json", *map(str, arguments)])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    return status, json.loads(lines[-1]) if lines else {}, said.err


def test_the_demo_keeps_its_caps_and_answers_everything(
    one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spent at or under each cap, every problem answered, and the log tells the same story."""
    log = tmp_path / "run.jsonl"
    caps = ("--usd", "0.003", "--seconds", 600, "--tokens", 1500)
    status, found, err = _demo(capsys, "--problems", one_day, "--log", log, "--page", 0, *caps)
    assert status == 0, err
    assert "live: http://127.0.0.1:" in err
    assert set(found) == {
        "caps",
        "spent",
        "problems",
        "answered",
        "right",
        "fixed_cap_right",
        "calls",
        "forced_closes",
    }
    assert all(found["spent"][unit] <= found["caps"][unit] for unit in ("usd", "seconds", "tokens"))
    assert found["answered"] == found["problems"] == 5
    assert found["calls"] == 9
    events = [json.loads(line) for line in log.read_text().splitlines()]
    settled = [e for e in events if e["event"] == "settled"]
    assert sum(e["charged"]["tokens"] for e in settled) == found["spent"]["tokens"]
    assert len([e for e in events if e["event"] == "grant"]) == len(settled) == 9
    assert all(e["reason"] and e["label"] for e in events if e["event"] == "grant")
    assert "max_tokens=" in err
    assert main(["report", str(log), "--why"]) == 0
    out = capsys.readouterr().out
    assert "left before; holds" in out
    assert f"{found['spent']['tokens']:,} tokens" in out
    assert main(["bench", "--replay", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identical"]
    assert all(task["best_chance"] <= task["bound"] + 1e-9 for task in found["tasks"])


def test_the_demo_runs_on_a_server(one_day: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--base-url` runs the same agent over the vLLM wire."""
    with wire.serving(model="e1-tiny") as base_url:
        status, found, err = _demo(
            capsys,
            *("--problems", one_day, "--base-url", base_url, "--log", tmp_path / "run.jsonl"),
            *("--usd", "0.003", "--seconds", 60),
        )
    assert status == 0, err
    assert found["answered"] == found["problems"]


def test_ctrl_c_settles_and_leaves_a_complete_log(one_day: Path, tmp_path: Path) -> None:
    """Interrupted in mid-run: holds are settled, `run.jsonl` is complete so far, the status is 130."""
    log = tmp_path / "run.jsonl"
    week = SHOP_WEEK
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "elastic_agent.integrations.commands.main",
            "demo",
            "--problems",
            week,
            "--log",
            log,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 90
        while not (log.exists() and '"settled"' in log.read_text()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    events = [json.loads(line) for line in log.read_text().splitlines()]
    granted = {e["call"] for e in events if e["event"] == "grant"}
    assert granted == {e["call"] for e in events if e["event"] == "settled"}
    assert events[-1]["event"] == "task_closed"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--page", "65536"], "65535"),
        (["--model", "nonesuch"], "no model called 'nonesuch': embedded are e1-tiny"),
        (["--usd", "-1"], "usd must be more than 0"),
        (["--seconds", "nan"], "seconds must be finite"),
        (["--tokens", "0"], "tokens must be at least 1"),
        (["--problems", "nowhere.jsonl"], "can't read the problems file"),
        (["--base-url", "localhost:8000"], "base_url must begin with"),
        (["--solution", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused with exit status 2 and what to do, before anything is spent."""
    log = tmp_path / "run.jsonl"
    assert main(["demo", "--log", str(log), *arguments]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Traceback" not in said.err
    assert '"grant"' not in (log.read_text() if log.exists() else "")


@pytest.mark.parametrize(
    ("arguments", "needed"), [(["--tokens", "20"], "97"), (["--usd", "0.000001"], "$")], ids=["tokens", "usd"]
)
def test_caps_that_hold_no_answer_are_refused_with_the_numbers(
    arguments: list[str], needed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cap too small for even one answer: refused before a token is spent, and it says what was needed."""
    log = tmp_path / "run.jsonl"
    assert main(["demo", "--log", str(log), *arguments]) == 2
    err = capsys.readouterr().err
    assert "need" in err
    assert needed in err
    assert '"grant"' not in log.read_text()


def test_a_price_that_nobody_knows_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A money cap on an unpriced model fails closed, and says how to set a price."""
    with wire.serving(model="own-model") as base_url:
        status = main(
            [
                *("demo", "--base-url", base_url, "--model", "own-model", "--tokenizer", "e1-tiny"),
                *("--usd", "1", "--log", str(tmp_path / "run.jsonl")),
            ]
        )
    assert status == 2
    assert "price" in capsys.readouterr().err


def test_a_model_without_thinking_markers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A budget on a model that has no end-of-thinking marker fails loudly, and says what would help."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "hi": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "plain")
    assert main(["demo", "--model", str(tmp_path / "plain"), "--log", str(tmp_path / "run.jsonl")]) == 2
    err = capsys.readouterr().err
    assert "no end-of-thinking marker" in err
    assert "MarkerText" in err


def test_ask_shows_thinking_the_close_and_the_solution(capsys: pytest.CaptureFixture[str]) -> None:
    """One question, cut where the user said."""
    question = "A shop has 37 pens . #1 It sells 12 . How many pens are left ?"
    assert main(["ask", question, "--thinking", "8", "--solution", "64", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "the close was forced" in out
    assert "thinking 8 of 8 tokens (budget)" in out
    assert main(["ask", "  "]) == 2
    assert main(["ask", "hi", "--thinking", "-1"]) == 2


def test_report_of_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that is none is named; one cut short by a crash is read as far as it goes."""
    assert main(["report", str(tmp_path / "nowhere.jsonl")]) == 2
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"event": "task_opened"}\nnonsense\n{"event": "task_closed"}\n')
    assert main(["report", str(bad)]) == 2
    assert "line 2" in capsys.readouterr().err
    bad.write_text('{"event": "task_opened"}\n{"event": "gr')
    assert main(["report", str(bad)]) == 0
    assert "the last line was cut short" in capsys.readouterr().err
    bad.write_bytes(b"SQLite format 3\x00" + b"\xff" * 100)
    capsys.readouterr()
    assert main(["report", str(bad)]) == 2
    assert "is a ledger, not a run log" in capsys.readouterr().err


def test_a_report_is_read_at_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing cut off, caps and sums for each task, sums by agent."""
    monkeypatch.setenv("COLUMNS", "80")
    log = tmp_path / "run.jsonl"

    async def work() -> None:
        backend = ScriptedBackend(Reply("hm " * 30, "so it is 42"))
        async with BudgetScheduler(backend, price=Price(1, 4), log=str(log)) as scheduler:
            for agent in ("researcher", "writer"):
                async with scheduler.task(Caps(usd="0.01", tokens=300), agent=agent) as task:
                    await asyncio.gather(*(task.generate(f"question {i}", solution=40) for i in range(3)))

    asyncio.run(work())
    assert main(["report", str(log)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    assert "caps: 300 tokens, $0.010000" in out
    events = [json.loads(line) for line in log.read_text().splitlines()]
    spent = [event["spent"]["tokens"] for event in events if event["event"] == "task_closed"]
    assert all(f"spent: {tokens:,} tokens" in out for tokens in spent)
    assert any(line.split()[::4] == ["researcher", f"{spent[0]:,}"] for line in lines)


def test_bench_says_whether_a_run_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Identical: 0, and a table; a grant that was tampered with: 1, and its line; no scheduler's log: 2."""
    log = tmp_path / "run.jsonl"

    async def work() -> None:
        backend = ScriptedBackend(Reply("hm " * 40, "so " * 9))
        async with (
            BudgetScheduler(backend, log=log) as scheduler,
            scheduler.task(Caps(tokens=400), name="job") as task,
        ):
            for _ in range(3):
                await task.generate("go", kind="step", solution=12)
            with suppress(CapExceededError):
                await task.generate("go", solution=400, on_exhausted="raise")

    asyncio.run(work())
    assert main(["bench", "--replay", str(log)]) == 0
    out = capsys.readouterr().out
    assert "decisions, all identical" in out
    assert "job*" in out  # by the prior: nobody measured this kind
    whole = log.read_text(encoding="utf-8")
    log.write_text(whole + '{"event": "gra', encoding="utf-8")
    assert main(["bench", "--replay", str(log)]) == 0
    assert "cut short" in capsys.readouterr().out
    log.write_text(
        whole.replace('"granted": {"thinking": ', '"granted": {"thinking": 1', 1), encoding="utf-8"
    )
    assert main(["bench", "--replay", str(log)]) == 1
    assert "granted.thinking is 1" in " ".join(capsys.readouterr().out.split())  # however lines are broken
    log.write_text(whole[whole.index("\n") + 1 :], encoding="utf-8")
    assert main(["bench", "--replay", str(log)]) == 2
    assert "does not begin with scheduler_opened" in capsys.readouterr().err


def test_help_is_for_a_newcomer(capsys: pytest.CaptureFixture[str]) -> None:
    """No command prints the commands; each has its own help."""
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "ask", "prepare", "train", "eval", "report", "bench"))
    for command in ("demo", "ask", "report", "bench", "prepare", "train", "eval"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_of_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that names the commands; bash takes the script and completes a command with it."""
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert "report" in script
    if shell == "bash":
        asked = "COMP_WORDS=(elastic-agent rep); COMP_CWORD=1; _shtab_elastic_agent elastic-agent rep"
        done = subprocess.run(
            ["bash", "-c", f'{script}\n{asked}; echo "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["report"]


def test_exit_codes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "130 stopped by Ctrl-C" in " ".join(capsys.readouterr().out.split())
