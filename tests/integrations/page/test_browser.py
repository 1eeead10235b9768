"""The live page in a real browser: it keeps up with 200 tasks, and a name is text whatever it says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.page import LivePage
from elastic_agent.scheduler import BudgetScheduler
from tests.browser import Browser, find_browser
from tests.integrations.gateway.conftest import serving

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no browser: apt-get install chromium")

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
QUOTE = '"onload="document.title=\'taken\'"'
TURNED = "safe \u202egnp.exe"
NAMES = "[...document.querySelectorAll('.name')].map(one => one.textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert FOUND is not None
    with Browser(FOUND) as one:
        yield one


def wait_for(browser: Browser, script: str, seconds: float = 10.0) -> float:
    """Until something is true in the page; how long that took."""
    began = time.monotonic()
    while not browser.run(script):
        assert time.monotonic() - began < seconds, f"never: {script}"
        time.sleep(0.02)
    return time.monotonic() - began


async def test_it_keeps_up_with_200_tasks(browser: Browser) -> None:
    """While 200 tasks run, a new one is seen within a second; no error; it fits a phone."""
    backend = ScriptedBackend(Reply(thinking="hm " * 20, solution="so it is 42"), tpot=0.02)
    with LivePage(0) as page:
        async with BudgetScheduler(backend, log=[page]) as scheduler:

            async def work(name: str) -> None:
                async with scheduler.task(Caps(tokens=4000, seconds=60), name=name) as task:
                    for _ in range(20):
                        await task.generate("hello there", kind="sum")

            working = [asyncio.create_task(work(f"task {at}")) for at in range(200)]
            await asyncio.to_thread(browser.open, page.url, width=390)
            await asyncio.to_thread(wait_for, browser, "document.querySelectorAll('.task').length === 200")
            focus = "document.querySelector('[data-id=\"7\"] summary').focus()"
            await asyncio.to_thread(browser.run, focus)
            for name in ("seen soon", SCRIPT, QUOTE):
                async with scheduler.task(Caps(tokens=100), name=name):
                    seen = f"{NAMES}.includes({json.dumps(name)})"
                    assert await asyncio.to_thread(wait_for, browser, seen) < 1.0
            async with scheduler.task(Caps(tokens=100), name=TURNED):
                seen = f"{NAMES}.includes('safe [U+202E]gnp.exe')"
                assert await asyncio.to_thread(wait_for, browser, seen) < 1.0
            focused = await asyncio.to_thread(browser.run, "document.activeElement.parentElement.dataset.id")
            assert focused == "7"  # though its task was drawn again
            width = await asyncio.to_thread(browser.run, "document.documentElement.scrollWidth")
            assert width == 390
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            ended = "document.getElementById('summary').textContent.startsWith('0 open')"
            await asyncio.to_thread(wait_for, browser, ended)
        assert await asyncio.to_thread(browser.run, "document.title") == "Elastic Agent, live"
    assert browser.errors == []


async def test_the_gateways_page_asks_for_a_key(browser: Browser) -> None:
    """With a key typed, its tasks are shown and no others; the key is in no address."""
    async with serving(no_keys=False, embedded=True) as served:
        key, _ = served.gateway.keys.create("alice")
        other, _ = served.gateway.keys.create("bob")
        for secret, name in ((key, "mine"), (other, "not-mine")):
            headers = {"X-Elastic-Task": name, "X-Elastic-Caps": "tokens=500"}
            assert "choices" in await served.ask(secret, headers)
        await asyncio.to_thread(browser.open, f"{served.root}/ui")
        typed = f"document.getElementById('key').value = {json.dumps(key)}"
        assert await asyncio.to_thread(browser.run, "!document.getElementById('ask').hidden")
        await asyncio.to_thread(browser.run, typed)
        await asyncio.to_thread(browser.click, "button")
        await asyncio.to_thread(wait_for, browser, f"{NAMES}.length > 0")
        assert await asyncio.to_thread(browser.run, NAMES) == ["mine"]
        places = "location.href + performance.getEntriesByType('resource').map(one => one.name)"
        assert key not in await asyncio.to_thread(browser.run, places)
        assert await asyncio.to_thread(browser.run, "document.querySelector('.call .why').textContent") != ""
    assert browser.errors == []
