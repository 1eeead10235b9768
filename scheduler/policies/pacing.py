"""Paces many tasks under one pool, by a price for its tokens or dollars: these go where they buy most.

    BudgetScheduler(pool=Pool(usd=20, per="day"))                    # a day's money
    BudgetScheduler(pool=Pool(tokens=180_000, per=60, rolling=True))  # a GPU that makes 3,000 tokens a second

A pool is a pace and no cap: the ledger keeps the caps. Without a pool, tasks that share an account are served
first come, first served. With one, a call thinks only as far as value * (the chance that the whole task
succeeds) - price * (expected tokens) rises (`policies.Marginal`).

*The price* is the dual multiplier of the pool, by dual mirror descent (Balseiro, Lu and Mirrokni, "The Best
of Many Worlds", arXiv 2011.10124, with the entropy as reference function: multiplicative steps). The paper
makes a step for each request, by its use less its part of the budget. Here each spending and each passing of
time makes a step:

    log share += step * (spent - due) / mean use of a task,    step = 0.1 / sqrt(min(tasks seen, a window's))
    price = share * value of the tasks seen / what they used, or what was due meanwhile if that is more

The paper's regret bound asks for steps of the order of 1 / sqrt(T), with T tasks in a window. Before T tasks
were seen the steps are 1 / sqrt(tasks seen), as in online gradient descent without a horizon: larger, so that
a bad start is forgotten. `due` is the rest of the pool over the rest of its window, for the time that has
passed (at most twice the even pace, since the last minutes of a window would throw the price away); of a
rolling pool it is the even pace. A call spends its expected use when it is granted, and the difference when
it is settled. So a burst has its effect before its answers are there.

The price therefore needs no unit, and follows when values change. The best multiplier in hindsight is at most
the value of all tasks over the pool. The price starts there (`share` is 1), since what is saved at first can
be spent later; where a window has few tasks, much of the first window may pass before the price has come
down. Before anything was spent the price is 0. Where less is left than an even part for the rest of the
window, calls see the price times that ratio (`scarcity`), so that the pool lasts for everybody's answers.

*Nobody starves.* Only thinking is priced, not minimums, solutions or the reserve for the final answer, and no
call waits because of the price. A part of each pool, `fair`, is shared evenly among all tenants: keys, and
tasks without a key by the power of two of their value. A tenant's credit grows with time. While it has
credit, one of its tasks at a time runs unpriced, and that task's use is taken off the credit. So a tenant
that keeps asking always has, in the long run, tasks that think as if there were no pool, for fair / tenants
of it, however little the tasks are worth. All this costs at most `fair` of the pool.

There is no clock in here: the same times and amounts give the same prices.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, Protocol

from elastic_agent.budget import Caps
from elastic_agent.validation import MOST_SECONDS, put, real

from ..ledger.accounts import Account
from ..ledger.amounts import INFINITY, Amount
from ..ledger.prices import Price

STEP = 0.1
"""See the module. Of 0.1, 0.2 and 0.4 this had the most value on most streams (others than those of
`benchmarks/pool.py`); larger steps left fewer tasks unanswered where a pool is tightest."""
START = 1.0
"""The first price, as a share of value per use."""
LEAST, MOST = 1e-3, 10.0
"""The range of the price, as shares of value per use."""
FASTEST = 2.0
"""The largest pace of `due`, as a multiple of the even pace."""
MEMORY = 1000
"""Tasks over which value and use are averaged."""


MOST_FAIR = 0.999


@dataclass(frozen=True, slots=True)
class Pool:
    """What all tasks of a scheduler together should spend, and in what time; in dollars or in tokens.

    Attributes:
        usd: dollars for each window.
        tokens: generated tokens for each window.
        per: the window: a UTC day or month, or seconds, counted from the first task on.
        rolling: no windows: so much in any time of this length, as a GPU can do. Then `per`, in seconds, says
            how far spending may run ahead: about as much as a queue may hold.
        fair: the share that is spent evenly on all tenants, whatever their tasks are worth; see the module.

    Raises:
        InvalidValueError, ValueError: not exactly one unit, or nothing to spend, or no time to spend it in.
    """

    usd: Decimal | float | int | str | None = None
    tokens: int | None = None
    per: Literal["day", "month"] | float = "day"
    rolling: bool = False
    fair: float = 0.05

    def __post_init__(self) -> None:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError("a pool is of usd= or of tokens=, one of them")
        assert self.size > 0  # Caps take nothing else
        if isinstance(self.per, str):
            if self.per not in ("day", "month") or self.rolling:
                raise ValueError(
                    f"per must be 'day', 'month' or seconds (rolling: seconds), not {self.per!r}"
                )
        else:
            put(self, "per", real("per", self.per, above=True, most=MOST_SECONDS, of="seconds"))
        put(self, "fair", real("fair", self.fair, most=MOST_FAIR))

    @property
    def size(self) -> int:
        """What a window holds, in tokens or nano-dollars."""
        caps = Caps(usd=self.usd, tokens=self.tokens)
        found = caps.tokens if caps.nanodollars is None else caps.nanodollars
        assert found is not None  # one of them is given
        return found

    def window(self, at: float) -> tuple[float, float]:
        """Start and end of the UTC day or month around a moment; all three in seconds since 1970."""
        day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.per == "day":
            return day.timestamp(), (day + timedelta(days=1)).timestamp()
        first = day.replace(day=1)
        return first.timestamp(), (first + timedelta(days=32)).replace(day=1).timestamp()


class PacedTask(Protocol):
    """What a pool knows of a task.

    Attributes:
        account: the task's account; a task without a key of its own has the account's id as its key.
        key: whose task it is.
        value: what its success is worth, beside that of other tasks.
    """

    @property
    def account(self) -> Account: ...
    @property
    def key(self) -> str: ...
    @property
    def value(self) -> float: ...


@dataclass(slots=True)
class _Tenant:
    """One of those that share `fair` evenly. Its credit is the pool's credit per tenant less `used`.

    Attributes:
        used: what its unpriced tasks have used, and credit from before it came.
        asked_at: when its latest task opened.
        unpriced: its task that runs unpriced.
    """

    used: float
    asked_at: float
    unpriced: PacedTask | None = None


class Pacing:
    """The price of one pool, in one process. See the module.

    Args:
        pool: what there is.
        epoch: seconds since 1970 when the clock of `now` was at 0; for days and months.

    Attributes:
        left: the rest of the pool in this window, without the expected use of running calls.
        running: the expected use of running calls.
    """

    def __init__(self, pool: Pool, epoch: float = 0.0) -> None:
        self.pool = pool
        self.epoch, self._size = epoch, pool.size
        self.left = self._own = float(self._size)
        self.running = 0.0
        self._now = self._end = -INFINITY
        self._length = 1.0
        self._tasks = self._value = self._used = self._due = 0.0  # of about the last `MEMORY` tasks
        self._seen, self._log = 0, math.log(START)
        self._credit = 0.0
        self._tenants: OrderedDict[tuple[str, int], _Tenant] = OrderedDict()

    def task_opened(self, task: PacedTask, now: float) -> None:
        """An outermost task opens."""
        self.advance(now)
        keep = 1 - 1 / MEMORY
        self._seen += 1
        self._tasks = self._tasks * keep + 1
        self._value = self._value * keep + task.value
        self._used *= keep
        self._due *= keep
        name = _tenant_of(task)
        tenant = self._tenants.setdefault(name, _Tenant(self._credit, now))
        self._tenants.move_to_end(name)
        tenant.asked_at = self._now
        while next(iter(self._tenants.values())).asked_at < self._now - self._length:
            self._tenants.popitem(last=False)
        most = self.pool.fair * self._size / len(self._tenants)
        tenant.used = max(tenant.used, self._credit - most)
        if tenant.unpriced is None and tenant.used < self._credit:
            tenant.unpriced = task

    def task_closed(self, task: PacedTask) -> None:
        """An outermost task has ended."""
        if self.is_unpriced(task):
            self._tenants[_tenant_of(task)].unpriced = None

    def use(self, amount: Amount) -> float:
        """An amount in the unit of the pool."""
        return float(amount.tokens if self.pool.usd is None else amount.nano)

    def record_call(self, task: PacedTask, before: float, use: float, now: float, *, done: bool) -> None:
        """A call of this outermost task will probably use, or has used, so much of the pool.

        Args:
            before: the call's `use` in the last record; 0 at first.
            use: in the unit of the pool.
            done: the call is over.
        """
        self.advance(now)
        self.running += (0.0 if done else use) - before
        if self.is_unpriced(task):
            self._tenants[_tenant_of(task)].used += use - before
        self.record_spent(use - before)

    def record_spent(self, more: float) -> None:
        """So much more (below zero: less) is spent than was known."""
        self._used += more
        self.left -= more
        self._own -= more
        self._move(more)

    def record_accounts(self, accounts: Iterable[Account]) -> None:
        """A store has told what these accounts of the tasks have spent, in other processes too.

        What other processes hold counts as spent.
        """
        left = self._own
        for account in accounts:
            cap = account.tokens if self.pool.usd is None else account.nano
            if cap is not None:
                left = min(left, cap - self.use(account.spent) - self.running)
        others, self.left = self.left - left, left
        self._move(others)

    def advance(self, now: float) -> None:
        """Move the time to `now`; a time that goes back changes nothing."""
        if now >= self._end:
            self._begin(now)
        elif now > self._now:
            even = self._size / self._length
            pace = even if self.pool.rolling else self.left / (self._end - self._now)
            self._elapse(now, min(max(pace, 0.0), FASTEST * even))

    def price_for(self, price: Price | None, outermost: PacedTask, value: float) -> float:
        """What a thinking token of a call costs, as a share of the success of a task of this value.

        Args:
            price: of the call's model; None: unknown.
            outermost: the call's outermost task.
        """
        found = self.price * self.scarcity
        if not found or self.is_unpriced(outermost):
            return 0.0
        if self.pool.usd is not None:
            if price is None:
                return 0.0
            found *= price.per_thinking_token
        return found / value

    def is_unpriced(self, task: PacedTask) -> bool:
        """Whether an outermost task thinks as if there were no pool."""
        tenant = self._tenants.get(_tenant_of(task))
        return tenant is not None and tenant.unpriced is task

    @property
    def price(self) -> float:
        """Value for each token, or nano-dollar."""
        pool = max(self._used, self._due)
        return math.exp(self._log) * self._value / pool if self._used > 0 else 0.0

    @property
    def scarcity(self) -> float:
        """The factor on the price: an even part for the rest of the window over what is left; at least 1."""
        if self.pool.rolling or self._now == -INFINITY:
            return 1.0
        even = self._size * (self._end - self._now) / self._length
        return min(max(1.0, even / max(self.left, 1.0)), 1 / LEAST)

    def _begin(self, now: float) -> None:
        """Begin a window, with the price of the last one; what was still due in that is forgotten."""
        pool, first = self.pool, self._end == -INFINITY
        if isinstance(pool.per, str):
            start, end = pool.window(now + self.epoch)
            self._length, self._end = end - start, end - self.epoch
        else:
            self._length = pool.per
            if first:
                self._end = now
            self._end += INFINITY if pool.rolling else pool.per * (1 + (now - self._end) // pool.per)
        if not first:
            self._elapse(now, self._size / self._length)
        self._now = now
        self.left = self._own = self._size - self.running

    def _elapse(self, now: float, pace: float) -> None:
        """Let time pass in which so much a second is due."""
        seconds, self._now = now - self._now, now
        if self._tenants:
            self._credit += self.pool.fair * self._size / self._length * seconds / len(self._tenants)
        self._due += pace * seconds
        self._move(-pace * seconds)

    def _move(self, ahead: float) -> None:
        """Make a step of mirror descent: spending has run ahead of what is due by so much."""
        if self._used > 0 and self._tasks:
            mean = self._used / self._tasks
            step = STEP / math.sqrt(min(self._seen, self._size / mean))
            self._log += step * ahead / mean
            self._log = min(max(self._log, math.log(LEAST)), math.log(MOST))


def _tenant_of(task: PacedTask) -> tuple[str, int]:
    """The task's key; without one, the power of two of its value."""
    return (task.key, 0) if task.key != task.account.id else ("", math.frexp(task.value)[1])
