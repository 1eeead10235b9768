"""The ledger in memory: what every account may spend, has spent and has promised. No clock, no IO, one lock.

Accounts form a tree: a task, its sub-tasks. A hold takes tokens and nano-dollars from its account and from
every account above, and promises an end in time; it is taken whole or not at all. A hold ends once:

    hold ---- settle(actual) ----> charged what was used, the rest comes back
         ---- refund() ----------> provably never sent: all comes back
         ---- expire() ----------> its outcome is unknown: all is charged

Ending a hold again changes nothing. For each account and unit, at every instant,

    available + held + spent == cap

and an account's held and spent cover its children's; `check()` is the law as a callable. An upstream that
serves more than it was asked for is charged in full, even below zero: the ledger must not hide it.

Time passes by itself. Spent seconds are the elapsed seconds; held seconds reach up to the furthest promised
end (parallel holds overlap), plus the seconds that are reserved for the final answer.

An account's *reserve* is a hold of its own, for the task's final answer. `hold(final=True)` takes from the
reserve first.
"""

from __future__ import annotations

import threading
from itertools import count

from elastic_agent.errors import TaskClosedError

from .accounts import Account, Hold, HoldState
from .amounts import INFINITY, NOTHING, Amount, Balance, Shortage, balances
from .inherited_caps import inherited_deadline, shortage_on_path


class Ledger:
    """A tree of accounts in memory."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.accounts: dict[str, Account] = {}
        self._ids = count(1)

    def open(
        self,
        name: str,
        *,
        parent: Account | None = None,
        tokens: int | None = None,
        nano: int | None = None,
        seconds: float | None = None,
        now: float,
    ) -> Account:
        """A new account. A unit without a cap is counted here; only the accounts above limit it.

        Raises:
            TaskClosedError: the parent is closed.
        """
        with self.lock:
            if parent is not None and parent.closed:
                raise TaskClosedError(f"{parent.id} has ended: no sub-task can be opened in it")
            path = f"{parent.id}/{name}" if parent else name
            unique = path if path not in self.accounts else f"{path}#{next(self._ids)}"
            account = Account(unique, parent, tokens, nano, seconds, now)
            self.accounts[unique] = account
            if parent is not None:
                parent.children[unique] = account
            return account

    def hold(
        self,
        account: Account,
        amount: Amount,
        *,
        until: float,
        now: float,
        final: bool = False,
        first: Hold | None = None,
    ) -> Hold | Shortage:
        """Take `amount` on the whole path, up to `until`, or nothing.

        Args:
            final: the account's reserve may be used.
            first: the call's first hold; None: this is the first.

        Raises:
            TaskClosedError: the account is closed.
        """
        with self.lock:
            if account.closed:
                raise TaskClosedError(f"{account.id} has ended: it takes no more calls")
            drawn = account.reserve.min(amount) if final else NOTHING
            extra = amount - drawn if final else amount
            if short := shortage_on_path(account, extra):
                return short
            end = inherited_deadline(account, final=final)
            if until > end:
                return Shortage(account.id, "seconds", until - now, end - now)
            name = f"h{next(self._ids)}"
            held = Hold(name, account, amount, until, name if first is None else first.id)
            for a in account.path:
                a.held += extra
                a.live[held.id] = held
            if final:
                account.reserve -= drawn
                for a in account.path:
                    a.reserved -= drawn
            return held

    def settle(self, hold: Hold, actual: Amount) -> Hold:
        """End a hold with what was used; the rest comes back."""
        return self._end(hold, HoldState.SETTLED, actual)

    def refund(self, hold: Hold) -> Hold:
        """End a hold of a call that was provably never sent: all comes back."""
        return self._end(hold, HoldState.REFUNDED, NOTHING)

    def expire(self, hold: Hold) -> Hold:
        """End a hold whose outcome is unknown: all of it is charged."""
        return self._end(hold, HoldState.EXPIRED, hold.amount)

    def reserve(self, account: Account, amount: Amount, seconds: float | None = None) -> Shortage | None:
        """Set the amount, and the seconds, that only the account's final answer may use.

        An increase is taken from what is left on the whole path, or nothing changes.
        """
        with self.lock:
            if account.closed:
                raise TaskClosedError(f"{account.id} has ended")
            if amount != account.reserve:
                extra = amount - account.reserve
                if short := shortage_on_path(account, extra):
                    return short
                for a in account.path:
                    a.held += extra
                    a.reserved += extra
                account.reserve = amount
            if seconds is not None:
                account.reserved_seconds = seconds
            return None

    def close(self, account: Account) -> None:
        """End an account: its children first; live holds expire; the reserve comes back; charges stay."""
        with self.lock:
            if account.closed:
                return
            for child in list(account.children.values()):
                self.close(child)
            for hold in [h for h in account.live.values() if h.account is account]:
                self.expire(hold)
            self.reserve(account, NOTHING, 0.0)
            account.closed = True
            if account.parent is not None:
                account.parent.own += account.spent
                account.parent.children.pop(account.id, None)
            self.accounts.pop(account.id, None)

    def balances(self, account: Account, now: float) -> dict[str, Balance]:
        """The account's balances of the capped units, by unit ("tokens", "nano", "seconds")."""
        with self.lock:
            found = balances(account.tokens, account.nano, account.spent, account.held)
            if account.seconds is not None:
                elapsed = max(0.0, now - account.opened)
                ends = (h.until for h in account.live.values() if h.until < INFINITY)
                ahead = max(0.0, max(ends, default=now) - now) + account.reserved_seconds
                found["seconds"] = Balance(account.seconds, elapsed, ahead, account.seconds - elapsed - ahead)
            return found

    def check(self) -> None:
        """Hold the conservation law against every open account.

        Raises:
            AssertionError: which account breaks the law, and how.
        """
        with self.lock:
            for a in self.accounts.values():
                own = [h for h in a.live.values() if h.account is a]
                held = sum((h.amount for h in own), a.reserve)
                held = sum((c.held for c in a.children.values()), held)
                spent = sum((c.spent for c in a.children.values()), a.own)
                assert a.held == held, f"{a.id}: holds add up to {held}, the account says {a.held}"
                assert a.spent == spent, f"{a.id}: charges add up to {spent}, the account says {a.spent}"
                reserved = sum((c.reserved for c in a.children.values()), a.reserve)
                assert a.reserved == reserved, f"{a.id}: reserves add up to {reserved}, not {a.reserved}"
                least = min(a.reserve.tokens, a.reserve.nano, a.reserved_seconds)
                assert least >= 0, f"{a.id}: a reserve below zero"
                for child in a.children.values():
                    assert child.live.keys() <= a.live.keys(), f"{a.id}: a hold of {child.id} is not covered"
                for h in own:
                    assert h.state is HoldState.LIVE, f"{h.id} is {h.state} and still held"

    def _end(self, hold: Hold, state: HoldState, charge: Amount) -> Hold:
        with self.lock:
            if hold.state is not HoldState.LIVE:
                return hold
            hold.state, hold.charged = state, charge
            hold.account.own += charge
            for a in hold.account.path:
                a.held -= hold.amount
                a.spent += charge
                del a.live[hold.id]
            return hold
