"""The documentation site: it builds without a broken link, and its pages are sound in a real browser."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, find_browser
from tools.build_docs import ROOT, pages, rewritten

FOUND = find_browser()
needs_site = pytest.mark.skipif(
    FOUND is None or importlib.util.find_spec("zensical") is None,
    reason="no browser (apt-get install chromium), or no Zensical (make setup)",
)
RESOURCES = "performance.getEntriesByType('resource').map(one => one.name)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The built site: its folder, and its address on this machine."""
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "tools.build_docs", "--folder", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder / "site"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder / "site", f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@needs_site
@pytest.mark.timeout(240)
def test_every_page_in_a_browser(site: tuple[Path, str]) -> None:
    """No error in the console, no request to another host, and no scrolling sideways on a phone."""
    folder, address = site
    assert FOUND is not None
    found = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("index.html"))
    assert {".", "glossary", "compare", "train", "reference/elastic_agent.scheduler"} <= set(found)
    with Browser(FOUND) as page:
        for name in found:
            page.open(f"{address}{name}/", width=390)
            assert page.run("document.documentElement.scrollWidth") <= 390, name
            assert [one for one in page.run(RESOURCES) if not one.startswith(address)] == [], name
        assert page.errors == []
    with Browser(FOUND) as page:  # another one: a visitor's first look decides, and is remembered
        page.open(address, width=1200, dark=True)
        assert page.run("document.body.dataset.mdColorScheme") == "slate"
        assert page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert page.errors == []


@needs_site
def test_public_names_are_documented(site: tuple[Path, str]) -> None:
    """The reference has every public name of the scheduler, and the search index knows it."""
    from elastic_agent import scheduler

    page = (site[0] / "reference" / "elastic_agent.scheduler" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in scheduler.__all__ if f'id="elastic_agent.scheduler.{name}"' not in page]
    assert missing == []
    assert "BudgetScheduler" in (site[0] / "search.json").read_text(encoding="utf-8")


def test_links_are_those_of_the_site() -> None:
    """Pages outside docs/, pictures, anchors, files that are no pages, and code that looks like a link."""
    known = pages()
    assert rewritten("[a](docs/faq.md#x)", "README.md", known) == "[a](faq.md#x)"
    assert rewritten("![p](docs/demo.svg)", "README.md", known) == "![p](demo.svg)"
    assert rewritten("[s](../../SECURITY.md)", "docs/design/README.md", known) == "[s](../security.md)"
    assert rewritten("[home](../README.md)", "docs/faq.md", known) == "[home](index.md)"
    source = "[`e`](../scheduler/runlog/events.py), [the log](../scheduler/runlog/events.py)"
    assert rewritten(source, "docs/faq.md", known) == "`e`, the log (`scheduler/runlog/events.py`)"
    assert rewritten("[web](https://x.y/z) [here](#b)", "README.md", known) == (
        "[web](https://x.y/z) [here](#b)"
    )
    code = "```python\nx = [a](docs/faq.md)\n```\n"
    assert rewritten(code, "README.md", known) == code
