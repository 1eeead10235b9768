"""Laws 1 and 2 on every store: any sequence of steps against a model that keeps lists and adds up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from elastic_agent.errors import StoreError, TaskClosedError
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount, Shortage
from elastic_agent.scheduler.ledger.stores.protocol import Spec, StoredAccount, StoredHold
from tests.scheduler.ledger.stores.places import START, Place

AMOUNTS = st.builds(Amount, st.integers(0, 60), st.integers(0, 60))
CAP = st.one_of(st.none(), st.integers(0, 150))
SECONDS = st.integers(0, 20)
LEASES = st.one_of(SECONDS, st.just(40 * 86400))  # some outlive a day or a month
WINDOWS = {None: "", "day": "%Y-%m-%d", "month": "%Y-%m"}


@dataclass
class AcceptedDeadline:
    """A hold, as the model has it."""

    key: str
    account: str
    amount: Amount
    until: float
    dispatched: bool
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING


@dataclass
class Naive:
    """Lists of what was opened, promised and charged."""

    now: float = START
    parents: dict[str, str | None] = field(default_factory=dict)
    specs: dict[str, Spec] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    holds: dict[str, AcceptedDeadline] = field(default_factory=dict)
    charges: list[tuple[str, Amount, float]] = field(default_factory=list)

    def up(self, account: str | None) -> list[str]:
        return [] if account is None else [account, *self.up(self.parents[account])]

    def held(self, account: str) -> Amount:
        live = (h for h in self.holds.values() if h.state is HoldState.LIVE and account in self.up(h.account))
        return sum((h.amount for h in live), NOTHING)

    def spent(self, account: str) -> Amount:
        stamp = WINDOWS[self.specs[account].window]
        this = datetime.fromtimestamp(self.now, UTC).strftime(stamp)
        mine = [c for c in self.charges if account in self.up(c[0])]
        return sum((a for _, a, t in mine if datetime.fromtimestamp(t, UTC).strftime(stamp) == this), NOTHING)

    def end(self, hold: AcceptedDeadline, state: HoldState, charge: Amount) -> None:
        hold.state, hold.charged = state, charge
        self.charges.append((hold.account, charge, self.now))

    def lapse(self, hold: AcceptedDeadline) -> None:
        if hold.dispatched:
            self.end(hold, HoldState.EXPIRED, hold.amount)
        else:
            self.end(hold, HoldState.REFUNDED, NOTHING)

    def lives(self, hold: AcceptedDeadline) -> bool:
        """Whether it does, now that somebody asks."""
        if hold.state is HoldState.LIVE and hold.until <= self.now:
            self.lapse(hold)
        return hold.state is HoldState.LIVE

    def shown(self, hold: AcceptedDeadline) -> StoredHold:
        left = max(0.0, hold.until - self.now) if hold.state is HoldState.LIVE else 0.0
        return StoredHold(
            hold.key, hold.account, hold.amount, hold.state, hold.charged, hold.dispatched, left
        )

    def short(self, account: str, amount: Amount, freed: Amount, seconds: float) -> Shortage | None:
        for name in self.up(account):
            spec, spent, held = self.specs[name], self.spent(name), self.held(name)
            for unit in ("tokens", "nano"):
                cap, needed, back = (getattr(x, unit) for x in (spec, amount, freed))
                if cap is not None and needed > back:
                    room = cap - getattr(spent, unit) - getattr(held, unit) + back
                    if needed > room:
                        return Shortage(name, unit, needed, room)
            if name in self.ends and self.now + seconds > self.ends[name]:
                return Shortage(name, "seconds", seconds, self.ends[name] - self.now)
        return None


class Ledgers(RuleBasedStateMachine):
    """Every step of the protocol, in any order, under a clock that jumps."""

    place: Place
    accounts: Bundle[str] = Bundle("accounts")
    keys: Bundle[str] = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.place.clear()
        self.store = self.place.open(retention=1e9)  # the model forgets nothing
        self.model = Naive()
        self.back = 0

    def teardown(self) -> None:
        self.run(self.store.aclose())
        self.runner.close()

    def run(self, step: Any) -> Any:
        return self.runner.run(step)

    @initialize(target=accounts, tokens=CAP, nano=CAP, window=st.sampled_from(list(WINDOWS)))
    def root(self, tokens: int | None, nano: int | None, window: Any) -> str:
        return self._open(Spec("root", tokens, nano, None, window), None)

    @rule(
        target=accounts,
        parent=accounts,
        tokens=CAP,
        nano=CAP,
        seconds=st.one_of(st.none(), st.integers(1, 100)),
        window=st.sampled_from(list(WINDOWS)),
    )
    def child(
        self, parent: str, tokens: int | None, nano: int | None, seconds: int | None, window: Any
    ) -> str:
        spec = Spec(f"{parent}/{len(self.model.specs)}", tokens, nano, seconds, window)
        if self._closed(parent):
            with pytest.raises(TaskClosedError):
                self.run(self.store.open([*self._path(parent), spec]))
            return parent
        return self._open(spec, parent)

    @rule(account=accounts, tokens=CAP, nano=CAP)
    def set_caps(self, account: str, tokens: int | None, nano: int | None) -> None:
        self.run(self.store.set_caps(account, tokens=tokens, nano=nano))
        spec = self.model.specs[account]
        self.model.specs[account] = Spec(account, tokens, nano, spec.seconds, spec.window)

    @rule(
        target=keys,
        account=accounts,
        amount=AMOUNTS,
        lease=LEASES,
        seconds=SECONDS,
        dispatched=st.booleans(),
    )
    def hold(self, account: str, amount: Amount, lease: int, seconds: int, dispatched: bool) -> str:
        return self._hold(f"k{len(self.model.holds)}", account, amount, lease, seconds, dispatched, None)

    @rule(target=keys, old=keys, amount=AMOUNTS, lease=LEASES, dispatched=st.booleans())
    def hold_instead(self, old: str, amount: Amount, lease: int, dispatched: bool) -> str:
        if old not in self.model.holds:
            return old
        account, key = self.model.holds[old].account, f"k{len(self.model.holds)}"
        if self.model.holds[old].dispatched:
            with pytest.raises(StoreError):
                self.run(self.store.hold(key, account, amount, lease=lease, instead_of=old))
            return old
        return self._hold(key, account, amount, lease, 0, dispatched, old)

    @rule(key=keys, dispatched=st.booleans())
    def hold_again(self, key: str, dispatched: bool) -> None:
        hold = self.model.holds.get(key)
        if hold is not None:
            got = self.run(self.store.hold(key, hold.account, hold.amount, lease=9, dispatched=dispatched))
            if self.model.lives(hold):
                hold.dispatched |= dispatched
            assert got == self.model.shown(hold)

    @rule(key=keys)
    def dispatch(self, key: str) -> None:
        hold = self.model.holds.get(key)
        if hold is not None:
            may = hold.state is HoldState.LIVE and hold.until > self.model.now
            assert self.run(self.store.dispatch(key)) is may
            hold.dispatched |= may

    @rule(key=keys, actual=st.one_of(st.none(), AMOUNTS), times=st.integers(1, 2))
    def end(self, key: str, actual: Amount | None, times: int) -> None:
        """Settle, or refund; again and again it stays as it is."""
        hold = self.model.holds.get(key)
        for _ in range(0 if hold is None else times):
            assert hold is not None
            step = self.store.refund(key) if actual is None else self.store.settle(key, actual)
            got = self.run(step)
            if self.model.lives(hold):
                state = HoldState.REFUNDED if actual is None else HoldState.SETTLED
                self.model.end(hold, state, actual or NOTHING)
            assert got == self.model.shown(hold)

    @rule(some=st.lists(keys, max_size=4), lease=LEASES)
    def renew(self, some: list[str], lease: int) -> None:
        ended = self.run(self.store.renew(some, lease))
        holds = self.model.holds
        live = {k for k in some if k in holds and holds[k].state is HoldState.LIVE}
        live = {k for k in live if holds[k].until > self.model.now}
        assert ended == set(some) - live
        for key in live:
            holds[key].until = self.model.now + lease

    @rule()
    def expire(self) -> None:
        over = [
            hold
            for hold in self.model.holds.values()
            if hold.state is HoldState.LIVE and hold.until <= self.model.now
        ]
        for hold in over:
            self.model.lapse(hold)
        got = self.run(self.store.expire())
        assert sorted(got, key=lambda h: h.key) == sorted(map(self.model.shown, over), key=lambda h: h.key)

    @rule(account=accounts)
    def close(self, account: str) -> None:
        if account == "root" and len(self.model.holds) < 10:
            return
        self.run(self.store.close(account))
        below = {name for name in self.model.specs if account in self.model.up(name)} - self.model.closed
        for hold in self.model.holds.values():
            if hold.account in below and hold.state is HoldState.LIVE:
                self.model.lapse(hold)
        self.model.closed |= below

    @rule(ahead=st.sampled_from([1, 5, 20, 86400, 31 * 86400]), back=st.integers(0, 100))
    def time_passes(self, ahead: int, back: int) -> None:
        """A step that writes sees the later time; then the clock may jump back, and time may not."""
        self.place.jump(self.back)
        self.model.now += ahead
        self.place.at(self.model.now)
        spec = self.model.specs["root"]
        self.run(self.store.set_caps("root", tokens=spec.tokens, nano=spec.nano))
        self.place.jump(-back)
        self.back = back

    @rule()
    def reopen(self) -> None:
        """What was acknowledged is there for the next handle."""
        if self.place.url is not None:
            self.run(self.store.aclose())
            self.store = self.place.open(retention=1e9)  # the model forgets nothing

    @invariant()
    def as_the_model_has_it(self) -> None:
        if not self.model.specs:
            return
        last = list(self.model.specs)[-1]
        some = {last, *(hold.account for hold in [*self.model.holds.values()][-1:])}
        holds, levels = self.run(self._views(sorted(some)))
        assert holds == {key: self.model.shown(hold) for key, hold in self.model.holds.items()}
        for level in levels:
            name = level.spec.id
            assert level.spec == self.model.specs[name]
            assert (level.spent, level.held) == (self.model.spent(name), self.model.held(name)), name
            assert level.closed == (name in self.model.closed)

    async def _views(self, accounts: list[str]) -> tuple[dict[str, StoredHold], list[StoredAccount]]:
        store = self.store
        views = [store.read_accounts(account) for account in accounts]
        _, holds, *levels = await asyncio.gather(store.check(), store.holds(), *views)
        return {hold.key: hold for hold in holds}, [level for path in levels for level in path]

    def _hold(
        self, key: str, account: str, amount: Amount, lease: int, seconds: int, away: bool, old: str | None
    ) -> str:
        model = self.model
        freed = NOTHING
        if old is not None and model.lives(model.holds[old]):
            freed = model.holds[old].amount
        step = self.store.hold(
            key, account, amount, lease=lease, seconds=seconds, dispatched=away, instead_of=old
        )
        if self._closed(account):
            with pytest.raises(TaskClosedError):
                self.run(step)
            return key
        got = self.run(step)
        short = model.short(account, amount, freed, seconds)
        if short is not None:
            assert got == short
            return key
        if old is not None and model.lives(model.holds[old]):
            model.end(model.holds[old], HoldState.REFUNDED, NOTHING)
        model.holds[key] = AcceptedDeadline(key, account, amount, model.now + lease, away)
        assert got == model.shown(model.holds[key])
        return key

    def _open(self, spec: Spec, parent: str | None) -> str:
        self.run(self.store.open([*self._path(parent), spec]))
        self.model.specs[spec.id], self.model.parents[spec.id] = spec, parent
        if spec.seconds is not None:
            self.model.ends[spec.id] = self.model.now + spec.seconds
        return spec.id

    def _path(self, account: str | None) -> list[Spec]:
        return [self.model.specs[name] for name in reversed(self.model.up(account))]

    def _closed(self, account: str) -> bool:
        return any(name in self.model.closed for name in self.model.up(account))


EXAMPLES = {"memory": 80, "sqlite": 20, "postgres": 12, "redis": 12}


def test_any_sequence_of_steps(place: Place) -> None:
    """Each answer, and the accounts after it, are those of the model."""

    class Here(Ledgers):
        pass

    Here.place = place
    examples = EXAMPLES[type(place).__name__.lower()]
    run_state_machine_as_test(Here, settings=settings(max_examples=examples, stateful_step_count=25))
