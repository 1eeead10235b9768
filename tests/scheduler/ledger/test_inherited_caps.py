"""Law 1 for sub-tasks: the tightest cap of the path counts."""

from __future__ import annotations

import pytest

from elastic_agent.scheduler.ledger.accounts import Hold
from elastic_agent.scheduler.ledger.amounts import INFINITY, Amount, Shortage
from elastic_agent.scheduler.ledger.inherited_caps import inherited_deadline, inherited_room
from elastic_agent.scheduler.ledger.ledger import Ledger


def test_a_child_never_exceeds_its_parent_nor_itself() -> None:
    """Nested caps: the tighter one wins, and siblings share the parent's."""
    ledger = Ledger()
    root = ledger.open("root", tokens=100, now=0)
    a = ledger.open("a", parent=root, tokens=500, now=0)
    b = ledger.open("b", parent=root, tokens=30, now=0)
    assert isinstance(ledger.hold(a, Amount(80), until=0, now=0), Hold)
    assert inherited_room(b).tokens == 20
    assert isinstance(ledger.hold(b, Amount(21), until=0, now=0), Shortage)
    ledger.close(a)
    assert root.spent.tokens == 80  # the outcome is unknown: charged
    assert inherited_room(b).tokens == 20


def test_a_unit_that_no_account_caps_has_no_limit() -> None:
    """Each unit by itself: one account caps tokens, another money, none time."""
    ledger = Ledger()
    root = ledger.open("root", nano=70, now=0)
    child = ledger.open("child", parent=root, tokens=40, now=0)
    assert inherited_room(root) == (None, 70, INFINITY)
    assert inherited_room(child) == (40, 70, INFINITY)


def test_only_the_final_answer_of_its_own_task_has_a_reserve() -> None:
    """In tokens and in seconds; not the task's other calls, nor its sub-tasks, final or not."""
    ledger = Ledger()
    root = ledger.open("root", tokens=100, seconds=10, now=0)
    child = ledger.open("child", parent=root, seconds=60, now=5)
    assert ledger.reserve(root, Amount(30), 2) is None
    assert inherited_room(root, final=True) == (100, None, 10)
    for account, final in ((root, False), (child, False), (child, True)):
        assert inherited_room(account, final=final) == (70, None, 8)


@pytest.mark.parametrize(("seconds", "end"), [(3, 8), (60, 10), (None, 10)])
def test_a_child_ends_with_its_parent_at_the_latest(seconds: float | None, end: float) -> None:
    """Its own seconds run from its own opening."""
    ledger = Ledger()
    root = ledger.open("root", seconds=10, now=0)
    child = ledger.open("child", parent=root, seconds=seconds, now=5)
    assert inherited_deadline(child) == end
