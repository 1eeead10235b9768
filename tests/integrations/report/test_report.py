"""A recorded run as text, JSON and a page: the same numbers, whatever the names say."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import BudgetScheduler, Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.report.run_file import read_run
from elastic_agent.integrations.report.run_json import as_dict
from elastic_agent.integrations.report.run_model import Run, run_of
from elastic_agent.integrations.report.run_page import run_page
from tests.browser import Browser, find_browser

FOUND = find_browser()
EVIL = '<script>document.title = "owned"</script>"onload=x'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two tasks: one with a sub-task of an agent, one that is refused."""
    path = tmp_path / "run.jsonl"

    async def work() -> None:
        backend = ScriptedBackend(Reply("hm " * 40, "it is 42"))
        async with BudgetScheduler(backend, log=path) as scheduler:
            async with scheduler.task(Caps(tokens=900, seconds=60), name=EVIL) as task:
                async with task.task(Caps(tokens=400), name="research", agent="digger") as sub:
                    await asyncio.gather(
                        *(sub.generate("a", kind="find", label=f"branch {n}", solution=24) for n in range(2))
                    )
                await task.generate("b", kind="step", solution=24)
            with pytest.raises(CapExceededError):
                async with scheduler.task(Caps(tokens=2), name="small") as task:
                    await task.generate("c", kind="step")

    asyncio.run(work())
    return path


def events(calls: int) -> list[dict[str, Any]]:
    """A made-up run of one task: each call is granted, lowered and settled."""
    found: list[dict[str, Any]] = [
        {"event": "task_opened", "task": EVIL, "id": 1, "at": 0.0, "caps": {"tokens": 200 * calls}}
    ]
    for n in range(calls):
        common = {"task": EVIL, "id": 1, "call": n, "kind": f"steps-{n % 5}", "reason": "as planned"}
        grant = common | {"event": "grant", "at": n / 100, "granted": {"thinking": 96, "solution": 96}}
        less = grant | {"event": "reduced", "at": n / 100 + 0.5, "granted": {"thinking": 17, "solution": 96}}
        used = {"thinking": 17, "solution": 40, "thinking_end": "preempted"}
        done = common | {"event": "settled", "at": n / 100 + 1, "used": used, "charged": {"tokens": 58}}
        found += [grant, less, done]
    return found


def test_the_sums_are_those_of_the_calls(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By kind and by agent, and what a task has spent; a refused call counts for nothing."""
    assert main(["report", str(log), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    first = said["tasks"][0]
    assert said["version"] == 1
    assert first["name"] == EVIL
    calls = [*first["calls"], *first["tasks"][0]["calls"]]
    assert len(calls) == 3
    assert first["spent"]["tokens"] == sum(call["charged"]["tokens"] for call in calls)
    assert first["left"] == {"tokens": 900 - first["spent"]["tokens"]}
    for call in calls:
        assert call["outcome"] == "answered"
        assert call["begun"] <= call["ended"]
        assert call["used"]["thinking"] <= call["granted"]["thinking"]
        assert call["decisions"][0]["what"] == "grant"
        assert call["decisions"][0]["reason"]
    by_kind = {one["name"]: one for one in said["by_kind"]}
    assert (by_kind["find"]["calls"], by_kind["step"]["calls"]) == (2, 1)
    assert [one["name"] for one in said["by_agent"]] == ["digger"]


def test_text_fits_80_columns_and_says_what_is_left(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", str(log), "--why"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "left: " in text
    assert "by kind" in text
    assert "by agent" in text
    assert "refused" in text


def test_a_lowered_limit_is_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "run.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events(2)))
    assert main(["report", str(path)]) == 0
    text = capsys.readouterr().out
    assert "17/96 -> 17" in text
    assert "40/96 " in text
    assert "(not closed)" in text
    assert "spent: 116 tokens; left: 284 tokens" in text


def test_a_page_that_cant_be_written(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(log), "--html", str(log.parent / "no" / "where.html")]) == 2
    assert "can't write" in capsys.readouterr().err


def test_a_page_is_as_private_as_its_log(log: Path) -> None:
    page = log.parent / "run.html"
    assert main(["report", str(log), "--html", str(page)]) == 0
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_lowered_limit_does_not_repeat_the_numbers_of_its_grant() -> None:
    """They are of the time of the grant, when more was left."""
    found = events(1)
    why = {"left": {"tokens": 200}, "reserve": {"tokens": 9}, "success": 0.5}
    found[1]["why"] = found[2]["why"] = why
    grant, less = run_of(found).tasks[0].calls[0].decisions
    assert (grant.left, grant.reserved, grant.success) == ({"tokens": 200}, {"tokens": 9}, 0.5)
    assert (less.left, less.reserved, less.success) == ({}, {}, None)


@pytest.mark.parametrize("name", ["{{ script }}", "{{ data }}", "</script><script>", "<!--<script>"])
def test_no_name_changes_the_page(name: str) -> None:
    """The data is what it was, and the script is the one that the policy allows."""
    page = run_page(name, run_of([event | {"task": name} for event in events(1)]))
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["run"]["tasks"][0]["name"] == name
    script = page.split("<script>")[1].split("</script>")[0]
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if FOUND is None:
        pytest.skip("no browser: apt-get install chromium")
    with Browser(FOUND) as page:
        yield page


def test_the_page_in_a_browser(log: Path, browser: Browser) -> None:
    """Names are text; a click shows a call's decisions; the replay's verdict is there; 390 px suffice."""
    page = log.parent / "run.html"
    assert main(["report", str(log), "--html", str(page)]) == 0
    assert "http" not in page.read_text().replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    browser.errors.clear()
    browser.open(page, width=390, height=800)
    assert browser.run("document.title") == "run.jsonl"
    assert browser.run("document.querySelector('h3').textContent") == EVIL
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.run("document.querySelector('button.call').click()")
    shown = browser.run("document.getElementById('decision').textContent")
    assert "to think" in shown
    assert "left before" in shown
    above = browser.run("document.getElementById('decision').previousElementSibling.className")
    assert above == "call", "below the call that was chosen, not at the end of the page"
    assert "all identical" in browser.run("document.getElementById('check').textContent")
    assert browser.errors == []


def test_5000_calls_open_at_once(tmp_path: Path, browser: Browser) -> None:
    """The first rows are there within three seconds, all of them on request."""
    run: Run = run_of(events(5000))
    page = tmp_path / "big.html"
    page.write_text(run_page("big", run))
    browser.errors.clear()
    start = time.perf_counter()
    browser.open(page)
    assert browser.run("document.querySelectorAll('button.call').length") == 200
    assert time.perf_counter() - start < 3
    browser.run("document.querySelector('.more').click()")
    assert browser.run("document.querySelectorAll('button.call').length") == 5000
    assert "96 → 17" in browser.run("document.querySelector('button.call').textContent")
    assert browser.errors == []


def test_json_and_page_tell_the_same_run(log: Path) -> None:
    run = run_of(read_run(log).events)
    page = run_page("run", run)
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["run"] == json.loads(json.dumps(as_dict(run)))
