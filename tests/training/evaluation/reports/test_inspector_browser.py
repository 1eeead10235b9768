"""The inspector in a real browser: it loads without an error, its controls work, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elastic_agent.training.evaluation.reports.inspector import inspector
from tests.browser import Browser, find_browser
from tests.training.evaluation.grids import record

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no browser: apt-get install chromium")
PROBLEMS = 6
SEEN = "[...document.querySelectorAll('article')].filter(a => a.offsetParent).map(a => a.id).join(' ')"
SHOWN = "['uncut', 'cut'].filter(v => document.querySelector('.pair.' + v).offsetParent).join(' ')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six problems; uncut the verdict changes on the second, cut on the first three."""
    made = [
        record(
            model=model,
            t=t,
            problem=f"p{i}",
            thinking=f"start {i}. {'wait, is that right? ' * 3 if model == 'base' else ''}so it is {i}.",
            right=model == "org/e1" or i not in ((1,) if t is None else (0, 1, 2)),
        )
        for i in range(PROBLEMS)
        for model in ("base", "org/e1")
        for t in (8, None)
    ]
    prompts = {f"p{i}": f"problem number {i} with a-very-long-word-{'x' * 60}" for i in range(PROBLEMS)}
    path = tmp_path_factory.mktemp("page") / "steps.html"
    path.write_text(inspector(made, prompts, before="base", after="org/e1", cut=8), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert FOUND is not None
    with Browser(FOUND) as one:
        yield one


def test_the_two_views_are_switched(browser: Browser, page: Path) -> None:
    """It opens where thinking is cut; the mouse and the key c switch; one is seen at a time."""
    browser.open(page)
    assert browser.run(SHOWN) == "cut"
    browser.click("label[for=uncut]")
    assert browser.run(SHOWN) == "uncut"
    browser.press("c")
    assert browser.run(SHOWN) == "cut"
    assert browser.errors == []


def test_only_changed_verdicts_are_shown_on_demand(browser: Browser, page: Path) -> None:
    """The filter follows the view, says how many, and lets go again."""
    browser.open(page)
    every = " ".join(f"p{n}" for n in range(1, PROBLEMS + 1))
    assert browser.run(SEEN) == every
    assert browser.run("document.getElementById('only').textContent") == "only changed verdicts (3)"
    browser.click("#only")
    assert browser.run(SEEN) == "p1 p2 p3"
    assert browser.run("document.getElementById('only').getAttribute('aria-pressed')") == "true"
    browser.click("label[for=uncut]")
    assert browser.run(SEEN) == "p2"
    browser.click("#only")
    assert browser.run(SEEN) == every
    assert browser.errors == []


def test_the_index_leads_to_each_problem(browser: Browser, page: Path) -> None:
    """Numbers stand out where the verdict changes in the view that is shown; a click leads there."""
    browser.open(page)
    shown = "[...document.querySelectorAll('.index li')].filter(a => a.offsetParent)"
    assert browser.run(f"{shown}.map(a => a.className || '-').join(' ')") == "gained gained gained - - -"
    browser.click("label[for=uncut]")
    assert browser.run(f"{shown}.map(a => a.className || '-').join(' ')") == "- gained - - - -"
    browser.click(".index.uncut li:nth-child(4) a")
    assert browser.run("location.hash") == "#p4"
    assert browser.errors == []


def test_j_and_k_go_through_all_problems(browser: Browser, page: Path) -> None:
    """To the last one too, which no scrolling brings to the top; and back."""
    browser.open(page)
    active = "document.activeElement.id"
    walked = []
    for key in "j" * (PROBLEMS + 2) + "k" * 2:
        browser.press(key)
        walked.append(browser.run(active))
    assert walked == ["p1", "p2", "p3", "p4", "p5", "p6", "p6", "p6", "p5", "p4"]
    assert browser.run("document.activeElement.getBoundingClientRect().top") >= 0
    assert browser.errors == []


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_window_light_and_dark(browser: Browser, page: Path, width: int) -> None:
    """Nothing sticks out sideways, and dark is dark."""
    backgrounds = []
    for dark in (False, True):
        browser.open(page, width=width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") <= width
        backgrounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]
    columns = browser.run("getComputedStyle(document.querySelector('.pair.cut')).gridTemplateColumns")
    assert len(columns.split()) == (1 if width < 600 else 2)
    assert browser.errors == []


def test_a_foreign_script_does_not_run_and_is_heard_of(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The page's policy holds in a browser: what the test of errors would say if a script slipped in."""
    torn = tmp_path / "torn.html"
    torn.write_text(page.read_text().replace("</main>", "<script>document.title = 'theirs'</script></main>"))
    browser.open(torn)
    assert browser.run("document.title") == "Reasoning inspector: base and org/e1"
    assert any("Content Security Policy" in error for error in browser.errors)
    browser.errors.clear()
