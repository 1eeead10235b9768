"""Every sentence of stores/base.py, on every store."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from elastic_agent.errors import StoreError, StoreVersionError, TaskClosedError
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount, Shortage
from elastic_agent.scheduler.ledger.stores.protocol import MOST, Spec, Store, StoredHold
from tests.scheduler.ledger.stores.places import START, Place

LIVE, SETTLED, REFUNDED, EXPIRED = HoldState
DAY = 86400.0


async def family(store: Store, *, root: int | None = 1000, child: int | None = 500) -> None:
    """ "org" and "org/task" under it, capped in tokens."""
    await store.open([Spec("org", tokens=root), Spec("org/task", tokens=child)])


async def take(store: Store, key: str, tokens: int = 100, *, lease: float = 10, **more: object) -> StoredHold:
    account = more.pop("account", "org/task")
    held = await store.hold(key, account, Amount(tokens), lease=lease, **more)
    assert isinstance(held, StoredHold), held
    return held


async def tokens(store: Store, account: str = "org/task") -> tuple[int, int]:
    """(spent, held) of one account; the law holds."""
    await store.check()
    level = (await store.read_accounts(account))[0]
    return level.spent.tokens, level.held.tokens


# ---------------------------------------------------------------------------------------- the life of a hold


async def test_a_hold_is_taken_on_the_whole_path_and_settled_once(store: Store) -> None:
    """Charged what was used; telling it again changes nothing and gets the same answer."""
    await family(store)
    held = await take(store, "k")
    assert held == StoredHold("k", "org/task", Amount(100), LIVE, NOTHING, False, 10)
    assert await tokens(store) == await tokens(store, "org") == (0, 100)
    assert await store.dispatch("k") is True
    done = await store.settle("k", Amount(30, 7))
    assert done == StoredHold("k", "org/task", Amount(100), SETTLED, Amount(30, 7), True, 0)
    for again in (await store.settle("k", Amount(99)), await store.refund("k")):
        assert again == done
    assert await store.dispatch("k") is False
    assert await tokens(store) == await tokens(store, "org") == (30, 0)


async def test_a_refund_gives_all_back(store: Store) -> None:
    """A call that provably never left costs nothing, even if it was about to."""
    await family(store)
    await take(store, "k", dispatched=True)
    assert (await store.refund("k")).state is REFUNDED
    assert (await store.settle("k", Amount(50))).charged == NOTHING
    assert await tokens(store, "org") == (0, 0)


async def test_what_was_used_is_charged_be_it_more_than_held(store: Store) -> None:
    """Books that hid it would be wrong: what is available falls below zero, and nothing more is held."""
    await family(store)
    await take(store, "k", 500)
    await store.settle("k", Amount(1200))
    level = (await store.read_accounts("org"))[0]
    assert level.balances()["tokens"].available == -200
    assert await store.hold("l", "org/task", Amount(1), lease=1) == Shortage("org/task", "tokens", 1, -700)
    await take(store, "m", 0)


async def test_a_lease_that_runs_out_is_charged_if_the_call_may_have_left(store: Store, place: Place) -> None:
    """Unknown is charged; never dispatched is refunded; each hold ends once."""
    await family(store)
    await take(store, "left", 100)
    await store.dispatch("left")
    await take(store, "stayed", 50)
    await take(store, "longer", 25, lease=11)
    place.at(START + 9)
    assert await store.expire() == []
    place.at(START + 10)
    ended = {hold.key: hold for hold in await store.expire()}
    assert {key: (hold.state, hold.charged.tokens) for key, hold in ended.items()} == {
        "left": (EXPIRED, 100),
        "stayed": (REFUNDED, 0),
    }
    assert await store.expire() == []
    assert await store.settle("left", Amount(1)) == ended["left"]
    assert await tokens(store) == await tokens(store, "org") == (100, 25)


async def test_a_lease_that_ran_out_is_over_before_anybody_sweeps(store: Store, place: Place) -> None:
    """A maker that slept through its lease sends nothing, whoever looks first."""
    await family(store)
    for key in ("a", "b", "c", "d"):
        await take(store, key, dispatched=key in "cd")
    place.at(START + 10)
    assert await store.dispatch("a") is False
    assert await store.dispatch("c") is False
    assert await store.renew(["a", "c"], 100) == {"a", "c"}
    assert await tokens(store) == (0, 400)  # still held: nobody asked for the holds themselves
    assert {(hold.state, hold.left) for hold in await store.holds()} == {(LIVE, 0)}
    assert (await store.settle("c", Amount(1))).state is EXPIRED
    assert (await store.refund("d")).charged == Amount(100)
    assert (await take(store, "b", dispatched=True)).state is REFUNDED
    assert await tokens(store) == (200, 100)
    assert [hold.key for hold in await store.expire()] == ["a"]


async def test_sweeps_and_closes_beside_settles_lose_nothing(store: Store, place: Place) -> None:
    """What one wrote the others add to, from two handles, each in the way of the others."""
    await family(store, root=None, child=None)
    sweeper = store if place.url is None else place.open()

    async def settle(keys: list[str]) -> None:
        for key in keys:
            await store.settle(key, Amount(3))

    for round in range(10):
        place.at(START + 20 * round)
        await store.open([Spec("org"), Spec(f"org/{round}")])
        await take(store, f"{round}-closed", account=f"org/{round}", dispatched=True)
        for n in range(16):
            await take(store, f"{round}-over-{n}", 10, dispatched=n % 2 == 0)
            await take(store, f"{round}-{n}", lease=100, dispatched=True)
        place.at(START + 20 * round + 10)
        keys = [f"{round}-{n}" for n in range(16)]
        await asyncio.gather(settle(keys[::2]), sweeper.expire(), settle(keys[1::2]), store.expire())
        await asyncio.gather(store.close(f"org/{round}"), sweeper.close(f"org/{round}"))
        assert await tokens(store) == ((16 * 3 + 8 * 10) * (round + 1), 0)
        assert await tokens(store, "org") == ((16 * 3 + 8 * 10 + 100) * (round + 1), 0)
    if sweeper is not store:
        await sweeper.aclose()


async def test_a_renewed_lease_counts_from_now(store: Store, place: Place) -> None:
    """Those that live get the lease; the others come back: ended, or unknown."""
    await family(store)
    for key in ("a", "b", "done"):
        await take(store, key)
    await store.refund("done")
    place.at(START + 9)
    assert await store.renew(["a", "done", "nobody", "a"], 5) == {"done", "nobody"}
    assert await store.renew([], 5) == set()
    place.at(START + 13)
    assert await store.dispatch("a") is True
    assert await store.dispatch("b") is False
    place.at(START + 14)
    assert {hold.key: hold.state for hold in await store.expire()} == {"a": EXPIRED, "b": REFUNDED}


# ------------------------------------------------------------------------------------------------------ keys


async def test_the_same_request_gets_the_same_answer(store: Store, place: Place) -> None:
    """And changes nothing: live, ended, on an account that has no room left, or that was closed."""
    await family(store, child=100)
    held = await take(store, "k")
    assert await take(store, "k") == held
    assert await tokens(store) == (0, 100)
    done = await store.settle("k", Amount(40))
    assert await take(store, "k", lease=99, seconds=1) == done
    await store.close("org/task")
    assert await take(store, "k") == done
    assert await tokens(store) == (40, 0)


async def test_a_key_stands_for_one_hold(store: Store) -> None:
    """Another amount or account under it is a mistake of the maker's."""
    await family(store)
    await take(store, "k")
    for account, amount in (("org", Amount(100)), ("org/task", Amount(99)), ("org/task", Amount(100, 1))):
        with pytest.raises(StoreError, match="k"):
            await store.hold("k", account, amount, lease=10)
    assert await tokens(store, "org") == (0, 100)


async def test_dispatched_under_a_known_key_dispatches(store: Store, place: Place) -> None:
    """It leaves as soon as this returns: so its lease may not refund it."""
    await family(store)
    await take(store, "k")
    assert (await take(store, "k", dispatched=True)).dispatched
    assert (await take(store, "k")).dispatched  # nor is it called back
    place.at(START + 10)
    assert (await store.expire())[0].state is EXPIRED


async def test_unknown_names_are_errors(store: Store) -> None:
    """Nothing is made up."""
    await family(store)
    for asked in (
        store.hold("k", "nobody", Amount(1), lease=1),
        store.hold("k", "org", Amount(1), lease=1, instead_of="nobody"),
        store.dispatch("nobody"),
        store.settle("nobody", Amount(1)),
        store.refund("nobody"),
        store.close("nobody"),
        store.read_accounts("nobody"),
        store.holds("nobody"),
        store.set_caps("nobody", tokens=1, nano=1),
    ):
        with pytest.raises(StoreError, match="nobody"):
            await asked
    assert await store.holds() == []


async def test_numbers_and_names_that_cannot_be(store: Store) -> None:
    """An error, and nothing changed; the largest amount is counted exactly."""
    await family(store, root=None, child=MOST)
    await take(store, "k", MOST)
    assert await store.hold("l", "org/task", Amount(1), lease=1) == Shortage("org/task", "tokens", 1, 0)
    await store.settle("k", Amount(MOST))
    for asked in (
        store.hold("m", "org", Amount(-1), lease=1),
        store.hold("m", "org", Amount(MOST + 1), lease=1),
        store.hold("m", "org", Amount(1), lease=-1),
        store.hold("m", "org", Amount(1), lease=math.nan),
        store.hold("m", "org", Amount(1), lease=1, seconds=math.inf),
        store.hold("", "org", Amount(1), lease=1),
        store.hold("m\0", "org", Amount(1), lease=1),
        store.hold("m\ud800", "org", Amount(1), lease=1),
        store.hold("m" * 501, "org", Amount(1), lease=1),
        store.settle("k", Amount(0, -1)),
        store.renew(["k"], math.inf),
        store.set_caps("org", tokens=-1, nano=None),
        store.open([]),
        store.open([Spec("", tokens=1)]),
        store.open([Spec("x", nano=MOST + 1)]),
        store.open([Spec("x", seconds=-1)]),
        store.open([Spec("x", window="week")]),  # type: ignore[arg-type]
    ):
        with pytest.raises(StoreError):
            await asked
    assert await tokens(store, "org") == (MOST, 0)


async def test_names_are_any_text(store: Store) -> None:
    """Quotes, percent signs, colons and other scripts are characters like any other."""
    odd = "o'rg \"%s :x {y} \\ *\n 組織"
    await store.open([Spec(odd, tokens=10)])
    held = await store.hold(odd, odd, Amount(1), lease=1)
    assert isinstance(held, StoredHold)
    assert (held.key, held.account) == (odd, odd)
    assert (await store.settle(odd, Amount(1))).state is SETTLED
    assert await store.renew([odd], 1) == {odd}


# -------------------------------------------------------------------------------------------------- the path


async def test_all_or_nothing_on_the_path(store: Store) -> None:
    """What one account can't take leaves no trace on the others; the first from the leaf up is named."""
    await store.open([Spec("org", nano=10), Spec("org/a", tokens=70), Spec("org/a/b", tokens=50, nano=90)])
    assert await store.hold("k", "org/a/b", Amount(50, 11), lease=1) == Shortage("org", "nano", 11, 10)
    assert await store.hold("k", "org/a/b", Amount(51, 91), lease=1) == Shortage("org/a/b", "tokens", 51, 50)
    assert await store.hold("k", "org/a", Amount(71, 11), lease=1) == Shortage("org/a", "tokens", 71, 70)
    assert await tokens(store, "org/a/b") == await tokens(store, "org") == (0, 0)
    await take(store, "k", 50, account="org/a/b")  # a key that was refused is free
    await take(store, "l", 20, account="org/a")
    assert await store.hold("m", "org/a/b", Amount(0, 10), lease=1) != Shortage
    assert await store.hold("n", "org/a", Amount(1), lease=1) == Shortage("org/a", "tokens", 1, 0)
    assert [(level.spec.id, level.held) for level in await store.read_accounts("org/a/b")] == [
        ("org/a/b", Amount(50, 10)),
        ("org/a", Amount(70, 10)),
        ("org", Amount(70, 10)),
    ]


async def test_a_final_hold_takes_the_place_of_its_reserve(store: Store, place: Place) -> None:
    """In one step, and only if it is taken."""
    await family(store, child=100)
    await take(store, "reserve", 60)
    assert await store.hold("big", "org/task", Amount(101), lease=1, instead_of="reserve") == Shortage(
        "org/task", "tokens", 101, 100
    )
    assert await store.dispatch("reserve") is True
    with pytest.raises(StoreError, match="reserve"):  # it may have left
        await store.hold("final", "org/task", Amount(80), lease=10, instead_of="reserve")
    await store.refund("reserve")
    await take(store, "second", 60)
    with pytest.raises(StoreError, match="second"):  # another account's
        await store.hold("final", "org", Amount(80), lease=10, instead_of="second")
    held = await take(store, "final", 80, instead_of="second")
    assert (held.state, held.amount) == (LIVE, Amount(80))
    assert (await store.refund("second")).state is REFUNDED
    assert await take(store, "final", 80, instead_of="second") == held
    assert await tokens(store) == (0, 80)


async def test_a_reserve_that_ended_gives_nothing(store: Store, place: Place) -> None:
    """By a refund or by its lease: what it held is free for everyone, the final hold among them."""
    await family(store, child=100)
    await take(store, "a", 60)
    await store.refund("a")
    await take(store, "other", 50, lease=99)
    assert await store.hold("k", "org/task", Amount(60), lease=9, instead_of="a") == Shortage(
        "org/task", "tokens", 60, 50
    )
    await take(store, "b", 50)
    place.at(START + 10)
    await take(store, "k", 50, instead_of="b")
    assert await tokens(store) == (0, 100)


async def test_a_reserve_is_kept_whatever_happens_to_the_caps(store: Store) -> None:
    """A hold that is no larger than what it replaces needs no room: the final answer is safe."""
    await family(store)
    await take(store, "reserve", 60)
    await store.set_caps("org", tokens=10, nano=None)
    assert await store.hold("k", "org/task", Amount(61), lease=9, instead_of="reserve") == Shortage(
        "org", "tokens", 61, 10
    )
    await take(store, "final", 60, instead_of="reserve")
    assert await tokens(store, "org") == (0, 60)


async def test_time_is_a_limit_too(store: Store, place: Place) -> None:
    """Every account above must be open for as long as the call may take."""
    await store.open([Spec("org", seconds=100), Spec("org/task", seconds=50)])
    place.at(START + 40)
    assert [level.left for level in await store.read_accounts("org/task")] == [10, 60]
    assert await store.hold("k", "org/task", NOTHING, lease=1, seconds=11) == Shortage(
        "org/task", "seconds", 11, 10
    )
    await take(store, "k", 0, lease=99, seconds=10)
    assert await store.hold("l", "org", NOTHING, lease=1, seconds=61) == Shortage("org", "seconds", 61, 60)
    place.at(START + 51)
    short = await store.hold("l", "org/task", NOTHING, lease=1)
    assert isinstance(short, Shortage)
    assert (short.unit, (await store.read_accounts("org/task"))[0].left) == ("seconds", 0)
    await store.settle("k", Amount(3))  # what is under way ends as ever
    assert await tokens(store, "org") == (3, 0)


# ---------------------------------------------------------------------------------------------- the accounts


async def test_accounts_that_exist_are_left_alone(store: Store) -> None:
    """Opening again is free; opening as something else is an error and opens nothing."""
    path = [Spec("org", tokens=9, nano=8, seconds=7, window="month"), Spec("org/task")]
    await store.open(path)
    await take(store, "k", 5)
    await store.open(path)
    await store.open([*path, Spec("org/task/sub")])
    assert await tokens(store) == (0, 5)
    for other in (
        Spec("org", tokens=8, nano=8, seconds=7, window="month"),
        Spec("org", tokens=9, seconds=7, window="month"),
        Spec("org", tokens=9, nano=8, seconds=8, window="month"),
        Spec("org", tokens=9, nano=8, seconds=7, window="day"),
        Spec("org", tokens=9, nano=8, seconds=7),
    ):
        with pytest.raises(StoreError, match="org"):
            await store.open([other, Spec("new")])
    for wrong in ([Spec("org/task")], [Spec("other"), Spec("org/task")], [Spec("new"), Spec("new")]):
        with pytest.raises(StoreError):
            await store.open(wrong)
    for unopened in ("new", "other"):
        with pytest.raises(StoreError):
            await store.read_accounts(unopened)


async def test_caps_can_change(store: Store) -> None:
    """Below what is spent and held they stop new holds and undo nothing."""
    await family(store)
    await take(store, "k", 300)
    await store.set_caps("org", tokens=100, nano=5)
    assert (await store.read_accounts("org"))[0].balances()["tokens"].available == -200
    assert await store.hold("l", "org/task", Amount(1), lease=1) == Shortage("org", "tokens", 1, -200)
    await store.settle("k", Amount(50))
    assert await store.hold("l", "org/task", Amount(50, 6), lease=1) == Shortage("org", "nano", 6, 5)
    await store.set_caps("org", tokens=None, nano=None)
    await take(store, "l", 450)
    await family(store, root=None)
    with pytest.raises(StoreError, match="set_caps"):
        await family(store)


async def test_closing_ends_everything_below(store: Store) -> None:
    """Holds end as if their leases had run out; the charges stay; closing again changes nothing."""
    await store.open([Spec("org", tokens=100), Spec("org/a"), Spec("org/a/b")])
    await store.open([Spec("org", tokens=100), Spec("org/c")])
    for key, account in (("away", "org/a/b"), ("here", "org/a"), ("other", "org/c")):
        await take(store, key, 10, account=account, dispatched=key == "away")
    await store.close("org/a/b")
    await store.close("org/a")
    await store.close("org/a")
    states = {hold.key: hold.state for hold in await store.holds()}
    assert states == {"away": EXPIRED, "here": REFUNDED, "other": LIVE}
    assert await tokens(store, "org") == (10, 10)
    assert [level.closed for level in await store.read_accounts("org/a/b")] == [True, True, False]
    for account in ("org/a", "org/a/b"):
        with pytest.raises(TaskClosedError):
            await store.hold("new", account, Amount(1), lease=1)
    for path in (
        [Spec("org", tokens=100), Spec("org/a")],
        [Spec("org", tokens=100), Spec("org/a"), Spec("x")],
    ):
        with pytest.raises(TaskClosedError):
            await store.open(path)
    assert (await store.settle("away", Amount(1))).charged == Amount(10)
    await store.close("org")
    assert await tokens(store, "org") == (10, 0)


async def test_holds_are_listed_by_account(store: Store) -> None:
    """Those of an account, not those below it, the ended ones too."""
    await family(store)
    await take(store, "a", account="org")
    await take(store, "b", dispatched=True)
    ended = await store.settle("b", Amount(7))
    assert [hold.key for hold in await store.holds("org")] == ["a"]
    assert await store.holds("org/task") == [ended]
    assert {hold.key for hold in await store.holds()} == {"a", "b"}


async def test_live_holds_of_an_account_and_of_all_below(store: Store, place: Place) -> None:
    """Who holds what there: neither ended holds, nor those whose lease has run out, nor those elsewhere."""
    await family(store)
    await store.open([Spec("other", tokens=1000)])
    await take(store, "a", account="org")
    await take(store, "b", dispatched=True)
    await take(store, "ended")
    await store.settle("ended", Amount(7))
    await take(store, "short", lease=1)
    await take(store, "elsewhere", account="other")
    place.at(START + 2)
    assert {hold.key for hold in await store.live("org")} == {"a", "b"}
    assert [(hold.key, hold.dispatched) for hold in await store.live("org/task")] == [("b", True)]
    with pytest.raises(StoreError):
        await store.live("nobody's")


# ------------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize("window", ["day", "month"])
async def test_a_window_starts_anew(store: Store, place: Place, window: str) -> None:
    """Spent is of this UTC day or month; what is held over the border is charged to where it ends."""
    await store.open([Spec("org", tokens=250), Spec("org/task", tokens=100, window=window)])  # type: ignore[arg-type]
    place.at(START + DAY - 2)
    await take(store, "a", 60)
    await store.settle("a", Amount(60))
    await take(store, "over", 30, dispatched=True)
    assert await store.hold("b", "org/task", Amount(11), lease=1) == Shortage("org/task", "tokens", 11, 10)
    place.at(START + DAY)  # November begins
    assert await tokens(store) == (0, 30)
    assert await store.hold("b", "org/task", Amount(71), lease=1) == Shortage("org/task", "tokens", 71, 70)
    await take(store, "b", 70)
    await store.settle("over", Amount(25))
    assert await tokens(store) == (25, 70)
    assert await tokens(store, "org") == (85, 70)
    place.at(START + 2 * DAY)
    assert await tokens(store) == ((0, 70) if window == "day" else (25, 70))
    place.at(START + 40 * DAY)
    await store.expire()
    assert await tokens(store) == (0, 0)
    assert await tokens(store, "org") == (85, 0)


async def test_ended_holds_are_forgotten_after_a_while(place: Place) -> None:
    """Only those that ended longer ago than the retention; the charges stay."""
    store = place.open(retention=100)
    await family(store)
    await take(store, "old")
    await store.settle("old", Amount(10))
    await take(store, "live", lease=1000)
    place.at(START + 60)
    await take(store, "young")
    await store.settle("young", Amount(20))
    place.at(START + 130)
    assert await store.expire() == []
    assert {hold.key for hold in await store.holds()} == {"live", "young"}
    with pytest.raises(StoreError, match="old"):
        await store.settle("old", Amount(1))
    assert await tokens(store) == (30, 100)
    await store.aclose()


async def test_closed_accounts_are_forgotten_after_a_while(place: Place) -> None:
    """With their holds and all below them; the accounts above keep their charges, window or not."""
    store = place.open(retention=100)
    org, task = Spec("org", tokens=1000), Spec("org/task", tokens=500, window="day")
    await store.open([org, task, Spec("org/task/sub")])
    await store.open([org, Spec("org/young")])
    await store.open([org, Spec("org/open")])
    for key, account in (("a", "org/task/sub"), ("b", "org/task"), ("c", "org/young"), ("d", "org/open")):
        await take(store, key, 10, account=account, dispatched=True)
    await store.settle("a", Amount(7))
    await store.close("org/task")
    place.at(START + 60)
    await store.close("org/young")
    place.at(START + 130)
    await store.expire()
    for gone in ("org/task", "org/task/sub"):
        with pytest.raises(StoreError, match=gone):
            await store.read_accounts(gone)
    assert [level.closed for level in await store.read_accounts("org/young")] == [True, False]
    assert [hold.key for hold in await store.holds()] == ["c", "d"]
    assert await tokens(store, "org") == (37, 0)
    with pytest.raises(TaskClosedError):
        await store.open([org, Spec("org/young")])

    await store.open([org, Spec("org/task", tokens=3)])  # a new one, of other caps
    assert await tokens(store) == (0, 0)
    await take(store, "a", 3)
    assert await tokens(store, "org") == (37, 3)

    await store.close("org")
    place.at(START + 300)
    await store.expire()
    await store.check()
    with pytest.raises(StoreError, match="org"):
        await store.read_accounts("org")
    assert await store.holds() == []
    await store.open([task])
    assert await tokens(store) == (0, 0)
    await store.aclose()


async def test_many_are_forgotten_as_well_as_few(place: Place) -> None:
    """More than one step of a sweep takes, in one `expire`."""
    store = place.open(retention=100)
    for i in range(220):
        await store.open([Spec("org"), Spec(f"org/{i}")])
        for j in range(2):
            await take(store, f"{i}-{j}", 1, account=f"org/{i}", dispatched=True)
        await store.close(f"org/{i}")
    place.at(START + 100)
    await store.expire()
    assert await store.holds() == []
    for i in (0, 219):
        with pytest.raises(StoreError):
            await store.read_accounts(f"org/{i}")
    assert await tokens(store, "org") == (440, 0)
    await store.aclose()


async def test_a_newer_schema_is_refused(place: Place) -> None:
    """A library that doesn't know it would misread it."""
    if place.url is None:
        pytest.skip("memory has no schema")
    store = place.open()
    await family(store)
    place.outdate()
    newer = place.open()
    for _ in range(2):
        with pytest.raises(StoreVersionError, match="999"):
            await newer.read_accounts("org")
    await newer.aclose()
    await store.aclose()


async def test_the_steps_of_a_call_start_no_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that starts a thread stands still until the thread has a processor."""
    await store.open([Spec("org", tokens=100)])
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def start(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} is started in a step")

    with monkeypatch.context() as watched:
        watched.setattr(threading.Thread, "start", start)
        for key in ("a", "b", "c"):
            assert isinstance(await store.hold(key, "org", Amount(1), lease=1000), StoredHold)
        assert await store.dispatch("a")
        await store.settle("a", Amount(1))
        await store.refund("b")
        store.end_soon("c", Amount(1), lambda answer: loop.call_soon_threadsafe(ended.set) and None)
        await ended.wait()
