"""The books: what every account may spend, has spent and has promised. No clock, no IO, one lock.

Accounts form a tree (a task, its sub-tasks). A hold takes tokens and nano-dollars from its account and from
every account above it, and promises an end in time; it is taken whole or not at all. It ends once:

    hold ---- settle(actual) ----> charged what was used, the rest comes back
         ---- refund() ----------> provably never sent: all of it comes back
         ---- expire() ----------> nobody knows what became of it: all of it is charged

Ending a hold again changes nothing. For each account and unit, at every instant,

    available + held + spent == cap

and an account's books cover those of its children; `check()` is that law as a callable. An upstream that
serves more than it was asked for is charged in full, even below zero: books that hide it would be wrong.

Time is different: it passes by itself. Spent is what has elapsed, held is up to the furthest promised end
(parallel holds overlap), plus the tail that is kept for the final answer.

An account's *reserve* is a hold of its own, kept for the task's final answer. `hold(final=True)` may use it:
what the call needs is taken from the reserve first.
"""

from __future__ import annotations

import threading
from itertools import count

from elastic_agent.errors import TaskClosedError

from .accounts import Account, Hold, HoldState
from .amounts import INFINITY, NOTHING, Amount, Balance, Room, Shortage, balances


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
        """A new account; a unit without a cap is counted and limited by the accounts above alone.

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

    def room(self, account: Account, *, final: bool = False) -> Room:
        """What a hold on this account can be at most; a final one has the account's own reserve too."""
        tokens: int | None = None
        nano: int | None = None
        extra = account.reserve if final else NOTHING
        for a in account.path:
            if a.tokens is not None:
                left = a.tokens - a.spent.tokens - a.held.tokens + extra.tokens
                tokens = left if tokens is None or left < tokens else tokens
            if a.nano is not None:
                left = a.nano - a.spent.nano - a.held.nano + extra.nano
                nano = left if nano is None or left < nano else nano
        return Room(tokens, nano, self.deadline(account, final=final))

    def deadline(self, account: Account, *, final: bool = False) -> float:
        """When a call on this account has to be over: each account's own end, less what is kept above it."""
        end = account.deadline
        if account.parent is not None:
            end = min(self.deadline(account.parent), end)
        return end if final else end - account.reserved_seconds

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
            first: the hold that the call has already.

        Raises:
            TaskClosedError: the account is closed.
        """
        with self.lock:
            if account.closed:
                raise TaskClosedError(f"{account.id} has ended: it takes no more calls")
            drawn = account.reserve.min(amount) if final else NOTHING
            extra = amount - drawn if final else amount
            for a in account.path:
                short = a.shortage_of(extra)
                if short is not None:
                    return short
            end = self.deadline(account, final=final)
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
        """End a hold with what was used; the rest comes back. Later calls change nothing."""
        return self._end(hold, HoldState.SETTLED, actual)

    def refund(self, hold: Hold) -> Hold:
        """End a hold of a call that provably never left."""
        return self._end(hold, HoldState.REFUNDED, NOTHING)

    def expire(self, hold: Hold) -> Hold:
        """End a hold whose outcome nobody knows: all of it is charged."""
        return self._end(hold, HoldState.EXPIRED, hold.amount)

    def reserve(self, account: Account, amount: Amount, seconds: float | None = None) -> Shortage | None:
        """Set what is reserved for the account's final answer, and the seconds that only it may use.

        More is taken from what is available on the whole path, or nothing changes.
        """
        with self.lock:
            if account.closed:
                raise TaskClosedError(f"{account.id} has ended")
            if amount != account.reserve:
                extra = amount - account.reserve
                for a in account.path:
                    short = a.shortage_of(extra)
                    if short is not None:
                        return short
                for a in account.path:
                    a.held += extra
                    a.reserved += extra
                account.reserve = amount
            if seconds is not None:
                account.reserved_seconds = seconds
            return None

    def close(self, account: Account) -> None:
        """End an account: its children first; live holds expire; the reserve goes back; the books stay."""
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
        """The account's balance by unit ("tokens", "nano", "seconds"), for those that are capped."""
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
            AssertionError: which account breaks it, and how.
        """
        with self.lock:
            for a in self.accounts.values():
                own = [h for h in a.live.values() if h.account is a]
                held = sum((h.amount for h in own), a.reserve)
                held = sum((c.held for c in a.children.values()), held)
                spent = sum((c.spent for c in a.children.values()), a.own)
                assert a.held == held, f"{a.id}: holds add up to {held}, the books say {a.held}"
                assert a.spent == spent, f"{a.id}: charges add up to {spent}, the books say {a.spent}"
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
