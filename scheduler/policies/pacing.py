"""Many tasks under one pool: a price for its tokens or dollars, so that they go where they buy most.

    BudgetScheduler(pool=Pool(usd=20, per="day"))                    # a day's money
    BudgetScheduler(pool=Pool(tokens=180_000, per=60, rolling=True))  # a GPU that makes 3,000 tokens a second

A pool is a pace and no cap: caps stay the ledger's. Without one, tasks that share an account take what is
there, first come first served. With one, a call thinks only as far as value * (the chance that the whole task
succeeds) - price * (expected tokens) rises (`policies.Marginal`).

*The price* is the dual multiplier of the pool, by dual mirror descent (Balseiro, Lu and Mirrokni, "The Best
of Many Worlds", arXiv 2011.10124, with the entropy as reference function: multiplicative steps). Where that
steps once a request, by what it used less its part of the budget, this steps whenever something is spent or
time passes:

    log share += step * (spent - due) / mean use of a task,    step = 0.1 / sqrt(min(tasks seen, a window's))
    price = share * value of the tasks seen / what they used, or what was due meanwhile if that is more

The paper's regret bound asks for steps of the order of 1 / sqrt(T), with T tasks in a window; until it has
seen as many, those of online gradient descent without a horizon, 1 / sqrt(tasks seen), are larger and forget
a bad start. `due` is what is left of the pool over what is left of its window, for the time that has passed
(at most twice the even pace, or the last minutes of a window would throw the price away); of a rolling pool
it is the even pace. A call spends, when it is granted, what it is expected to use; when it is settled, the
difference: so a burst is felt before its answers are there.

So it needs no unit, and follows when values change. The best multiplier in hindsight is at most the value of
all tasks over the pool: it starts there (`share` is 1), since what is saved at first can be spent later;
where a window has few tasks, much of the first one may pass before it has come down. Before anything was
spent it is 0. Where less is left than an even part for the rest of the window the price that calls see is
dearer by that ratio (`brake`): the pool should last for everybody's answers.

*Nobody starves.* The price touches thinking alone: floors, solutions and the reserve for the final answer
are not priced, and no call waits because of it. And of each pool a part, `fair`, is shared evenly among
all who ask: keys, and tasks without a key by the power of two of their value. Each has a credit that grows
with time; while there is any, one of its tasks at a time runs unpriced, and what that uses is taken off. So
whoever keeps asking has, in the long run, tasks that think as if there were no pool, for fair / askers of
it, however little they are worth; and all that costs at most `fair` of the pool.

No clock in here: the same times and amounts give the same prices. Time that goes back counts as none.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from elastic_agent.budget import Caps
from elastic_agent.validation import MOST_SECONDS, put, real

from ..allocation.request import Book, Request, Running
from ..ledger.accounts import INFINITY, Account, Amount

STEP = 0.1
"""See the module. Of 0.1, 0.2 and 0.4, on streams that the benchmark (`benchmarks/pool.py`) doesn't use, it
had the most value in most; larger ones left fewer tasks unanswered where a pool is tightest."""
START = 1.0
"""The first price, as a share of value per use."""
LEAST, MOST = 1e-3, 10.0
"""The range of the price, as shares of value per use."""
FASTEST = 2.0
"""Most that is due, as a multiple of the even pace."""
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
        rolling: no windows: so much in any time of this length, for something that flows, like what a GPU
            can do. Then `per`, in seconds, says how far spending may run ahead: about what a queue may hold.
        fair: share of it that is spent evenly on all who ask, whatever their tasks are worth; see the module.

    Raises:
        InvalidValueError, ValueError: not one unit, or nothing to spend, or no time to spend it in.
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
        """Of a window, in tokens or nano-dollars."""
        caps = Caps(usd=self.usd, tokens=self.tokens)
        found = caps.tokens if caps.nanodollars is None else caps.nanodollars
        assert found is not None  # one of them is given
        return found

    def window(self, at: float) -> tuple[float, float]:
        """The UTC day or month that this moment is in; both ends and it in seconds since 1970."""
        day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.per == "day":
            return day.timestamp(), (day + timedelta(days=1)).timestamp()
        first = day.replace(day=1)
        return first.timestamp(), (first + timedelta(days=32)).replace(day=1).timestamp()


@dataclass(slots=True)
class _Asker:
    """Who shares evenly: where its credit starts, when it last asked, and its task that runs unpriced."""

    start: float
    asked: float
    free: Book | None = None


class Pacer:
    """The price of one pool, in one process. See the module.

    Args:
        pool: what there is.
        epoch: seconds since 1970 when the clock of `now` was at 0; for days and months.

    Attributes:
        epoch: see there.
        left: of the pool, in this window; what running calls are expected to use is off already.
        running: what that is.
    """

    def __init__(self, pool: Pool, epoch: float = 0.0) -> None:
        self.pool = pool
        self.epoch, self._size = epoch, pool.size
        self.left = self._own = float(self._size)
        self.running = 0.0
        self._now = self._end = -INFINITY
        self._length = 1.0
        self._tasks = self._value = self._used = self._due = 0.0  # of the last `MEMORY` tasks, about
        self._seen, self._log = 0, math.log(START)
        self._credit = 0.0
        self._askers: OrderedDict[tuple[str, int], _Asker] = OrderedDict()

    # What it is told

    def opened(self, book: Book, now: float) -> None:
        """A task opens that is not part of another."""
        self.passed(now)
        keep = 1 - 1 / MEMORY
        self._seen += 1
        self._tasks = self._tasks * keep + 1
        self._value = self._value * keep + book.value
        self._used *= keep
        self._due *= keep
        name = _asker(book)
        asker = self._askers.get(name)
        if asker is None:
            asker = self._askers[name] = _Asker(self._credit, now)
        self._askers.move_to_end(name)
        asker.asked = self._now
        while (oldest := next(iter(self._askers.values()))).asked < self._now - self._length:
            self._askers.popitem(last=False)
            if oldest.free is not None:
                oldest.free.unpriced = False
        most = self.pool.fair * self._size / len(self._askers)
        asker.start = max(asker.start, self._credit - most)
        if asker.free is None and asker.start < self._credit:
            asker.free, book.unpriced = book, True

    def closed(self, book: Book) -> None:
        """That task has ended."""
        asker = self._askers.get(_asker(book))
        if asker is not None and asker.free is book:
            asker.free = None

    def spends(self, running: Running, amount: Amount, now: float) -> None:
        """A call will probably use, or has used, so much."""
        self.passed(now)
        use = float(amount.tokens if self.pool.usd is None else amount.nano)
        before, running.paced = running.paced, use
        self.running += (0.0 if running.done else use) - before
        self._count(running, use)
        book = running.request.book.levels[-1]
        if book.unpriced and (asker := self._askers.get(_asker(book))) is not None:
            asker.start += use - before
        self.spent(use - before)

    def spent(self, more: float) -> None:
        """So much more, or less, is spent than was known."""
        self._used += more
        self.left -= more
        self._own -= more
        self._move(more)

    def heard(self, accounts: Iterable[Account]) -> None:
        """The accounts that tasks are charged to were looked up: other processes spend from them, too.

        What these hold counts as spent.
        """
        left = self._own
        for account in accounts:
            cap, spent = account.tokens, account.spent_tokens
            if self.pool.usd is not None:
                cap, spent = account.nano, account.spent_nano
            if cap is not None:
                left = min(left, cap - spent - self.running)
        others, self.left = self.left - left, left
        self._move(others)

    def passed(self, now: float) -> None:
        """Time has come to `now`; time that goes back counts as none."""
        if now >= self._end:
            self._begin(now)
        elif now > self._now:
            even = self._size / self._length
            pace = even if self.pool.rolling else self.left / (self._end - self._now)
            self._elapse(now, min(max(pace, 0.0), FASTEST * even))

    # What it tells

    def price_for(self, request: Request, level: Book) -> float:
        """Of a thinking token of this call, as a share of the success of its task, or one around it."""
        price = self.price * self.brake
        if not price or request.book.levels[-1].unpriced:
            return 0.0
        if self.pool.usd is not None:
            if request.price is None:
                return 0.0
            price *= request.price.per_thinking_token
        return price / level.value

    @property
    def price(self) -> float:
        """Value for each token, or nano-dollar."""
        pool = max(self._used, self._due)
        return math.exp(self._log) * self._value / pool if self._used > 0 else 0.0

    @property
    def brake(self) -> float:
        """What the price is multiplied by: how many times what is left an even part for the rest would be."""
        if self.pool.rolling or self._now == -INFINITY:
            return 1.0
        even = self._size * (self._end - self._now) / self._length
        return min(max(1.0, even / max(self.left, 1.0)), 1 / LEAST)

    # Inside

    def _count(self, running: Running, use: float) -> None:
        """The chance that all calls of its tasks are right, with this one as it is by now."""
        request = running.request
        never = running.done and not use
        p = 1.0 if never else request.curve.p(running.limit) ** request.weight
        for level in request.book.levels:
            level.chance *= p / running.sure
        running.sure = p

    def _begin(self, now: float) -> None:
        """A window begins; what the last one still had due is forgotten with it, its price is not."""
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
        """Time passes in which so much a second is due."""
        seconds, self._now = now - self._now, now
        if self._askers:
            self._credit += self.pool.fair * self._size / self._length * seconds / len(self._askers)
        self._due += pace * seconds
        self._move(-pace * seconds)

    def _move(self, ahead: float) -> None:
        """Mirror descent: spending has run ahead of what is due by so much."""
        if self._used > 0 and self._tasks:
            mean = self._used / self._tasks
            step = STEP / math.sqrt(min(self._seen, self._size / mean))
            self._log += step * ahead / mean
            self._log = min(max(self._log, math.log(LEAST)), math.log(MOST))


def _asker(book: Book) -> tuple[str, int]:
    """Its key; tasks without one go by the power of two of their value."""
    return (book.key, 0) if book.key != book.account.id else ("", math.frexp(book.value)[1])
