"""Clocks that jump, on every store: leases and windows go on at the pace at which time passes."""

from __future__ import annotations

import asyncio
import logging

import pytest

from elastic_agent.errors import StoreClockError
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import Amount, Shortage
from elastic_agent.scheduler.ledger.stores.ledger_time import BELIEVED, FAR, SLEW, LedgerTime, Mark
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredHold
from tests.scheduler.ledger.stores.places import START, Place

DAY = 86400.0
NOON = START + DAY / 2
DAYS = 400 * DAY


async def spent_today(place: Place, store: Store) -> None:
    """Most of a day's cap is spent at noon, and a call that died holds some of the rest."""
    place.at(NOON)
    await store.open([Spec("acme", tokens=100, window="day")])
    await take(store, "before", 80, lease=60)
    await store.settle("before", Amount(80))
    await take(store, "dead", 15, lease=60)


async def take(store: Store, key: str, tokens: int, *, lease: float = 60) -> StoredHold:
    held = await store.hold(key, "acme", Amount(tokens), lease=lease, dispatched=True)
    assert isinstance(held, StoredHold), held
    return held


async def short(store: Store, key: str, tokens: int) -> bool:
    return isinstance(await store.hold(key, "acme", Amount(tokens), lease=60), Shortage)


@pytest.mark.parametrize("everywhere", [False, True], ids=["the store's clock", "all clocks"])
async def test_a_jump_ahead_that_is_put_right_has_changed_nothing(
    store: Store, place: Place, everywhere: bool
) -> None:
    """The day's cap is not granted again, and the dead call's lease ends when it would have."""
    await spent_today(place, store)
    place.jump(DAYS, everywhere=everywhere)
    assert await short(store, "a", 10)
    place.at(place.now + 10)
    assert await short(store, "b", 10)
    assert await store.expire() == []
    place.jump(-DAYS, everywhere=everywhere)
    place.at(place.now + 20)
    assert await short(store, "c", 10)
    assert await store.expire() == []
    place.at(place.now + 31)
    assert [hold.state for hold in await store.expire()] == [HoldState.EXPIRED]
    place.at(NOON + DAY)
    assert not await short(store, "d", 90)
    await store.check()


async def test_a_process_that_starts_during_a_jump_is_not_deceived(place: Place) -> None:
    """On the same machine the ledger knows how much time has passed; on another its own date is a witness."""
    if place.url is None:
        pytest.skip("memory is one process's")
    store = place.open()
    await spent_today(place, store)
    for everywhere in (True, False):
        place.jump(DAYS, everywhere=everywhere)
        place.at(place.now + 5) if everywhere else None
        late = place.open()
        assert await short(late, f"a{everywhere}", 10)
        await late.aclose()
        place.jump(-DAYS, everywhere=everywhere)
        assert await short(store, f"b{everywhere}", 10)
    await store.aclose()


async def test_a_clock_far_behind_the_ledger_fails_loudly(store: Store, place: Place) -> None:
    """Each step says what is wrong and what to do; set right, all goes on as if nothing had been."""
    await spent_today(place, store)
    place.jump(-5 * DAY)
    other = store if place.url is None else place.open()
    for each in (store, other):
        for step in (
            lambda s: short(s, "a", 1),
            lambda s: s.settle("dead", Amount(1)),
            lambda s: s.expire(),
        ):
            with pytest.raises(StoreClockError, match="set_time"):
                await step(each)
    place.jump(5 * DAY)
    place.at(NOON + 61)
    assert [hold.key for hold in await store.expire()] == ["dead"]
    if other is not store:
        await other.aclose()


async def test_a_small_jump_back_does_not_stop_the_time(store: Store, place: Place) -> None:
    """A dead call's lease ends nearly when it would have, on each handle; then both clocks agree again."""
    await spent_today(place, store)
    place.jump(-FAR / 2)
    other = store if place.url is None else place.open()
    place.at(place.now + 0.9 * 60)
    assert await other.expire() == []
    place.at(place.now + 60 * (0.1 + 2 * SLEW))
    assert [hold.key for hold in await store.expire()] == ["dead"]
    await take(store, "next", 1, lease=60)
    place.at(place.now + 60 * (1 + 2 * SLEW))
    assert [hold.key for hold in await other.expire()] == ["next"]
    if other is not store:
        await other.aclose()


async def test_a_clock_that_stays_ahead_is_followed(
    store: Store, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine whose other clock stood still, paused with it: said at once, believed later."""
    await spent_today(place, store)
    place.jump(DAY, everywhere=True)
    with caplog.at_level(logging.ERROR):
        assert await short(store, "a", 30)
        assert "gone ahead" in caplog.text
    place.at(place.now + BELIEVED / 2)
    assert await short(store, "b", 30)
    place.at(place.now + BELIEVED / 2 + 1)
    assert not await short(store, "c", 80)


async def test_a_window_begins_at_its_border_whatever_jumped(store: Store, place: Place) -> None:
    """Neither early nor late by more than the time that was lost while the clock was wrong."""
    await spent_today(place, store)
    place.at(START + DAY - 100)
    place.jump(200)
    assert await short(store, "a", 90)
    place.at(place.now + 50)
    assert await short(store, "b", 90)
    place.jump(-200)
    place.at(START + DAY + 100 * SLEW)
    assert not await short(store, "c", 80)


async def test_jumps_in_one_process_among_several_move_nobody(place: Place) -> None:
    """A process whose date is wrong neither begins windows for others nor ends their leases."""
    if place.url is None:
        pytest.skip("memory is one process's")
    store, other = place.open(), place.open()
    await spent_today(place, store)
    assert await short(other, "z", 10)
    await asyncio.gather(*(short(each, f"a{n}", 10) for n, each in enumerate((store, other))))
    wall, place.wall = place.wall, place.wall + DAYS
    if place.server is None:
        place.jump(DAYS)
    assert await short(other, "b", 10)
    place.wall = wall
    if place.server is None:
        place.jump(-DAYS)
    assert await store.expire() == []
    assert await short(store, "c", 10)
    for each in (store, other):
        await each.aclose()


async def test_a_ledger_that_was_written_under_a_wrong_clock_can_be_told(store: Store, place: Place) -> None:
    """Its time comes back; what was spent under it stays spent in the present window."""
    place.at(NOON + DAYS)
    await store.open([Spec("acme", tokens=100, window="day")])
    await take(store, "a", 60)
    await store.settle("a", Amount(60))
    await take(store, "held", 10)
    place.jump(-DAYS, everywhere=True)
    with pytest.raises(StoreClockError):
        await store.read_accounts("acme")
    await store.set_time()
    assert (await store.read_accounts("acme"))[0].spent.tokens == 60
    assert [hold.key for hold in await store.expire()] == ["held"]
    assert await short(store, "b", 40)
    place.at(place.now + DAY)
    assert not await short(store, "c", 100)
    await store.check()


def test_the_pace_of_a_ledger() -> None:
    """At most `SLEW` faster or slower than time passes, never backwards, whatever the clock does."""
    wall, ticks = START, 0.0
    time = LedgerTime(lambda: wall, lambda: ticks)
    latest = time.now(Mark())
    for passed, jumped in ((1, 0), (10, 100), (10, 0), (0, 50), (5, -120), (60, 0), (0, -100), (30, 0)):
        ticks, wall = ticks + passed, wall + passed + jumped
        now = time.now(Mark(latest))
        assert (1 - SLEW) * passed <= now - latest + 1e-6
        assert now - latest <= (1 + SLEW) * passed + 1e-6
        latest = now
