"""What the scheduler gives a call, and the words of the reason."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from elastic_agent.budget import NANO, Budget, to_usd

from ..latency.model import Speed
from ..ledger.amounts import INFINITY, Amount, Room


class Explained(Protocol):
    """A policy's part of a decision."""

    def numbers(self) -> dict[str, Any]:
        """The numbers behind the choice, for the log."""
        ...


class Basis(NamedTuple):
    """From what a grant was decided: the material of its reason.

    Attributes:
        why: the reason for this much thinking; `str(why)` is text. `numbers`, `plan`: the same for programs.
        prompt: tokens.
        before: what was left, the reserve included.
        reserve: what is kept for the final answer beside the call.
        now, waited: the moment, and how long the call had waited for it.
        speed: the endpoint's at that moment.
    """

    why: object
    numbers: Mapping[str, Any]
    plan: Explained | None
    prompt: int
    before: Room
    reserve: Amount
    now: float
    waited: float
    speed: Speed | None


class Grant(NamedTuple):
    """What one call may use, and why.

    Attributes:
        budget: the two limits that go on the wire.
        deadline: when the answer has to be over, on the event loop's clock; None without a time cap.
        hold: id of the call's hold on the ledger.
        kind: the kind of call.
        policy: the policy that chose.
        call: the call's number in its task, from 1.
        held: what the hold takes (tokens and nano-dollars): the worst case of exactly this budget.
        last: the call draws on the final answer's reserve: it gives the task's answer.
        basis: from which `reason` and `why` are made when somebody asks.
    """

    budget: Budget
    deadline: float | None
    hold: str
    kind: str
    policy: str
    call: int
    held: Amount
    last: bool
    basis: Basis

    @property
    def reason(self) -> str:
        """The reason for this much thinking, as one clause."""
        return str(self.basis.why)

    @property
    def why(self) -> dict[str, Any]:
        """The numbers that the decision was made from."""
        basis = self.basis
        return {
            "prompt": basis.prompt,
            "left": left(basis.before, basis.now),
            "reserve": units(basis.reserve),
            "waited": round(basis.waited, 6),
            "speed": None if basis.speed is None else basis.speed._asdict(),
            **basis.numbers,
            **({} if basis.plan is None else basis.plan.numbers()),
        }


@lru_cache(maxsize=4096)
def budget(thinking: int, solution: int) -> Budget:
    """The two limits as a value, checked once: most calls of an agent get one of a few."""
    return Budget(thinking, solution)


def dollars(nano: float) -> str:
    """Nano-dollars for people: six digits after the point, more for what is smaller."""
    usd = to_usd(int(nano))
    return f"${usd:.6f}" if usd == 0 or abs(usd) >= to_usd(1000) else f"${usd:.9f}"


def amounts(amount: Amount, *, tokens: bool = True, nano: bool = True) -> str:
    """An amount as "163 tokens and $0.000326", in the units that matter."""
    parts = [f"{amount.tokens:,} tokens"] if tokens or not nano else []
    if nano:
        parts.append(dollars(amount.nano))
    return " and ".join(parts)


def left(room: Room, now: float) -> dict[str, float]:
    """What a room is, by unit, for errors and logs: tokens, usd, seconds."""
    found: dict[str, float] = {}
    if room.tokens is not None:
        found["tokens"] = max(0, room.tokens)
    if room.nano is not None:
        found["usd"] = max(0, room.nano) / NANO
    if room.deadline < INFINITY:
        found["seconds"] = max(0.0, round(room.deadline - now, 6))
    return found


def left_text(room: Room, now: float) -> str:
    """The same in words."""
    parts = []
    if room.tokens is not None:
        parts.append(f"{max(0, room.tokens):,} tokens")
    if room.nano is not None:
        parts.append(dollars(max(0, room.nano)))
    if room.deadline < INFINITY:
        parts.append(f"{max(0.0, room.deadline - now):.2f} s")
    return ", ".join(parts)


def units(amount: Amount) -> dict[str, float]:
    """An amount by unit, for logs: tokens, usd."""
    return {"tokens": amount.tokens, "usd": amount.nano / NANO}
