"""Laws 1 and 2 on the ledger alone: any sequence of operations against a naive model."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from elastic_agent.errors import TaskClosedError
from elastic_agent.scheduler.ledger.ledger import (
    INFINITY,
    NOTHING,
    Account,
    Amount,
    Hold,
    HoldState,
    Ledger,
    Shortage,
)

CAP = st.one_of(st.none(), st.integers(1, 200))
AMOUNTS = st.builds(Amount, st.integers(0, 120), st.integers(0, 120))


@dataclass
class Naive:
    """The reference: every account keeps a list of what was promised and charged under it, and adds it up."""

    tokens: int | None
    nano: int | None
    parent: Naive | None
    deadline: float
    holds: dict[str, Amount] = field(default_factory=dict)
    charges: list[Amount] = field(default_factory=list)
    reserve: Amount = NOTHING
    tail: float = 0.0
    below: list[Naive] = field(default_factory=list)

    def used(self) -> Amount:
        total = sum([*self.holds.values(), *self.charges], self.reserve)
        return sum((child.used() for child in self.below), total)

    def fits(self, extra: Amount) -> bool:
        used = self.used() + extra
        own = (self.tokens is None or extra.tokens <= 0 or used.tokens <= self.tokens) and (
            self.nano is None or extra.nano <= 0 or used.nano <= self.nano
        )
        return own and (self.parent is None or self.parent.fits(extra))


class Books(RuleBasedStateMachine):
    """Open, reserve, hold, settle, refund, expire and close in any order."""

    accounts: Bundle[tuple[Account, Naive]] = Bundle("accounts")
    holds: Bundle[tuple[Hold, Naive]] = Bundle("holds")

    @initialize(target=accounts, tokens=CAP, nano=CAP)
    def root(self, tokens: int | None, nano: int | None) -> tuple[Account, Naive]:
        self.ledger, self.now = Ledger(), 0.0
        self.open: list[tuple[Account, Naive]] = []
        account = self.ledger.open("root", tokens=tokens, nano=nano, now=0.0)
        self.open.append((account, Naive(tokens, nano, None, INFINITY)))
        return self.open[0]

    @rule(
        target=accounts, parent=accounts, tokens=CAP, nano=CAP, seconds=st.one_of(st.none(), st.floats(1, 50))
    )
    def child(
        self, parent: tuple[Account, Naive], tokens: int | None, nano: int | None, seconds: float | None
    ) -> tuple[Account, Naive]:
        account, naive = parent
        if account.closed:
            with pytest.raises(TaskClosedError):
                self.ledger.open("child", parent=account, now=self.now)
            return parent
        opened = self.ledger.open(
            "c", parent=account, tokens=tokens, nano=nano, seconds=seconds, now=self.now
        )
        below = Naive(tokens, nano, naive, INFINITY if seconds is None else self.now + seconds)
        naive.below.append(below)
        self.open.append((opened, below))
        return opened, below

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(at=accounts, amount=AMOUNTS, tail=st.floats(0, 3))
    def reserve(self, at: tuple[Account, Naive], amount: Amount, tail: float) -> None:
        account, naive = at
        if account.closed:
            return
        ok = naive.fits(amount - naive.reserve)
        assert (self.ledger.reserve(account, amount, tail) is None) == ok
        if ok:
            naive.reserve, naive.tail = amount, tail

    @rule(target=holds, at=accounts, amount=AMOUNTS, final=st.booleans(), ahead=st.floats(0, 60))
    def hold(self, at: tuple[Account, Naive], amount: Amount, final: bool, ahead: float) -> object:
        account, naive = at
        if account.closed:
            with pytest.raises(TaskClosedError):
                self.ledger.hold(account, amount, until=self.now, now=self.now, final=final)
            return multiple()
        drawn = naive.reserve.min(amount) if final else NOTHING
        end, tails, line, level = INFINITY, 0.0, [], naive
        while level is not None:
            line.append(level)
            level = level.parent
        for level in reversed(line):
            end = min(end - tails, level.deadline)
            tails = 0.0 if final and level is naive else level.tail
        until = self.now + ahead
        ok = naive.fits(amount - drawn) and until <= end - tails
        got = self.ledger.hold(account, amount, until=until, now=self.now, final=final)
        assert isinstance(got, Hold) == ok
        if not isinstance(got, Hold):
            assert isinstance(got, Shortage)
            assert got.needed > got.available
            return multiple()
        naive.reserve -= drawn
        naive.holds[got.id] = amount
        return got, naive

    @rule(
        which=consumes(holds),
        how=st.sampled_from(["settle", "refund", "expire"]),
        used=AMOUNTS,
        again=AMOUNTS,
    )
    def end(self, which: tuple[Hold, Naive], how: str, used: Amount, again: Amount) -> None:
        """Every hold ends once; whatever is told later changes nothing."""
        hold, naive = which
        live = hold.state is HoldState.LIVE
        charge = {"settle": used, "refund": NOTHING, "expire": hold.amount}[how]
        if how == "settle":
            self.ledger.settle(hold, used)
        elif how == "refund":
            self.ledger.refund(hold)
        else:
            self.ledger.expire(hold)
        if live:
            del naive.holds[hold.id]
            naive.charges.append(charge)
            assert hold.charged + hold.refund == hold.amount
        before = (hold.state, hold.charged)
        self.ledger.settle(hold, again)
        self.ledger.expire(hold)
        self.ledger.refund(hold)
        assert (hold.state, hold.charged) == before

    @rule(at=accounts)
    def close(self, at: tuple[Account, Naive]) -> None:
        account, naive = at
        if account.parent is None or account.closed:
            return
        self.ledger.close(account)

        def forget(level: Naive) -> None:
            for child in level.below:
                forget(child)
            level.charges += level.holds.values()  # nobody knows what became of them
            level.holds, level.reserve, level.tail = {}, NOTHING, 0.0

        forget(naive)
        assert account.held == NOTHING

    @invariant()
    def conserved(self) -> None:
        self.ledger.check()
        for account, naive in self.open:
            assert account.spent + account.held == naive.used()
            for unit, balance in self.ledger.balances(account, self.now).items():
                assert balance.available + balance.held + balance.spent == pytest.approx(balance.cap), unit


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestBooks = Books.TestCase


def test_all_or_nothing_on_the_whole_path() -> None:
    """A hold that one account up the path can't take leaves no trace on the others."""
    ledger = Ledger()
    root = ledger.open("root", tokens=100, nano=10, now=0)
    child = ledger.open("child", parent=root, tokens=1000, nano=1000, now=0)
    short = ledger.hold(child, Amount(50, 11), until=1, now=0)
    assert isinstance(short, Shortage)
    assert (short.account, short.unit, short.needed, short.available) == (root.id, "nano", 11, 10)
    assert child.held == root.held == NOTHING


def test_an_upstream_that_serves_too_much_is_charged_in_full() -> None:
    """Books that hid it would be wrong; what is available falls below zero."""
    ledger = Ledger()
    root = ledger.open("root", tokens=100, now=0)
    hold = ledger.hold(root, Amount(90), until=0, now=0)
    assert isinstance(hold, Hold)
    ledger.settle(hold, Amount(120))
    ledger.check()
    assert ledger.balances(root, 0)["tokens"].available == -20


def test_time_is_spent_by_itself_and_holds_overlap() -> None:
    """Spent is elapsed, held is the furthest promised end and the tail, available the rest."""
    ledger = Ledger()
    root = ledger.open("root", seconds=10, now=100)
    ledger.reserve(root, NOTHING, 2.0)
    assert isinstance(ledger.hold(root, NOTHING, until=104, now=101), Hold)
    assert isinstance(ledger.hold(root, NOTHING, until=106, now=101), Hold)
    assert isinstance(ledger.hold(root, NOTHING, until=108.5, now=101), Shortage)  # that is the answer's time
    assert isinstance(ledger.hold(root, NOTHING, until=110, now=101, final=True), Hold)
    balance = ledger.balances(root, 102)["seconds"]
    assert (balance.spent, balance.held) == (2, 10)
    assert balance.available + balance.held + balance.spent == balance.cap


def test_the_reserve_is_out_of_reach_of_other_calls() -> None:
    """Only a final hold may use it, and takes it first."""
    ledger = Ledger()
    root = ledger.open("root", tokens=100, now=0)
    assert ledger.reserve(root, Amount(40)) is None
    assert isinstance(ledger.hold(root, Amount(61), until=0, now=0), Shortage)
    other = ledger.hold(root, Amount(60), until=0, now=0)
    final = ledger.hold(root, Amount(30), until=0, now=0, final=True)
    assert isinstance(other, Hold)
    assert isinstance(final, Hold)
    assert root.reserve == Amount(10)
    ledger.check()


def test_threads_share_the_ledger() -> None:
    """Holds from many threads never take more than there is."""
    ledger = Ledger()
    root = ledger.open("root", tokens=1000, now=0)
    taken: list[int] = []

    def spend() -> None:
        for _ in range(200):
            hold = ledger.hold(root, Amount(7), until=0, now=0)
            if isinstance(hold, Hold):
                taken.append(3)
                ledger.settle(hold, Amount(3))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.check()
    assert root.spent.tokens == sum(taken) <= 1000
    assert root.held == NOTHING
