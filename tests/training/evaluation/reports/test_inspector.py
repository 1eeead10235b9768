"""The inspector: what vanished is shown, what was written stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from elastic_agent.training.evaluation.reports.inspector import inspector, match, pattern, split_steps
from elastic_agent.training.evaluation.reports.inspector_page import SCRIPT
from tests.training.evaluation.grids import record

BEFORE = "start 4. wait, is that right? 4 + 3 = 7, yes. so it is 7."
AFTER = "start 4. 4 + 3 = 7, yes. done."


def records(**changes: Any) -> list[Any]:
    return [
        record(model=model, t=t, thinking=text, problem=f"p{i}", **changes)
        for i in range(3)
        for model, text in (("base", BEFORE), ("org/e1", AFTER))
        for t in (8, None)
    ]


PROMPTS = {f"p{i}": f"problem number {i}" for i in range(3)}


class Page(HTMLParser):
    """Tags and text of a page; scripts and handlers that are not ours would show here."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_steps_are_sentences_and_lines() -> None:
    assert split_steps(BEFORE) == ["start 4.", "wait, is that right?", "4 + 3 = 7, yes.", "so it is 7."]
    assert split_steps("a\n\nb. c\n") == ["a", "b.", "c"]
    assert split_steps("") == []
    assert pattern("12 + 3.5 =  15, yes.") == "N + N = N, yes."


def test_what_only_one_model_says_is_marked() -> None:
    """Matched in order; the first difference is where they part."""
    pair = match(record(thinking=BEFORE), record(thinking=AFTER))
    assert [step for step, alone in pair.steps[0] if alone] == ["wait, is that right?", "so it is 7."]
    assert [step for step, alone in pair.steps[1] if alone] == ["done."]
    assert pair.same == 1
    same = match(record(thinking=BEFORE), record(thinking=BEFORE))
    assert same.same == 4
    assert not any(alone for _, alone in (*same.steps[0], *same.steps[1]))
    assert match(record(thinking=""), record(thinking="")).same == 0


def test_the_page_shows_both_models_cut_and_uncut() -> None:
    """Each problem, four samples, their lengths, the first difference, and the patterns that vanished."""
    page = Page(inspector(records(), PROMPTS, before="base", after="org/e1", cut=8))
    assert page.open == []
    kinds = [attributes.get("class") for tag, attributes in page.tags if tag == "li"]
    assert kinds.count("gone") == 3 * 2 * 2
    assert kinds.count("new") == 3 * 2
    assert len([1 for _, attributes in page.tags if attributes.get("data-first")]) == 3 * 2 * 2
    assert [tag for tag, _ in page.tags].count("article") == 3
    for said in (
        "wait, is that right?",
        "so it is N.",
        "problem number 2",
        "8 thinking and 4 solution tokens",
    ):
        assert said in page.text
    short = Page(inspector(records(), PROMPTS, before="base", after="org/e1", cut=8, limit=2))
    assert [tag for tag, _ in short.tags].count("article") == 2


EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><svg onload=alert(1)>",
    "{script}{before} {0} %s",
    "</think><|im_end|>",
]


@pytest.mark.parametrize("evil", EVIL)
def test_text_of_models_and_users_stays_text(evil: str) -> None:
    """Law 7: whoever wrote it, it is shown as it was written, and nothing of it is a tag."""
    made = [
        record(model=model, t=t, thinking=f"{evil} {i}", solution=evil, strategy="elastic")
        for i, model in enumerate(("base", evil))
        for t in (8, None)
    ]
    page = Page(inspector(made, {"p0": evil}, before="base", after=evil, cut=8))
    plain = Page(inspector(records(), PROMPTS, before="base", after="org/e1", cut=8))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"em"}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(evil) >= 7
    assert page.open == []


def test_the_page_allows_its_own_script_alone() -> None:
    """A policy with the script's hash: should anything slip through, it does not run; nothing is fetched."""
    text = inspector(records(), PROMPTS, before="base", after="org/e1", cut=8)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    assert script[1] == SCRIPT
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|src=|@import|url\(", text)


def test_without_all_four_samples_there_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="base and e2 under elastic at t=8 and unconstrained"):
        inspector(records(), PROMPTS, before="base", after="e2", cut=8)
