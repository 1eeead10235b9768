"""How a sub-task's caps follow from its parent's: the tightest cap of the path counts, at each moment.

Opening a sub-task sets nothing aside and copies no cap. A hold of the sub-task is a hold on its own account
and on every account above. So a call of the sub-task has what is left on the account with the least left, and
a cap that is looser than the parent's has no effect.

    parent   cap 100, 70 spent or held -> 30 left
    child    cap  50, 10 spent or held -> 40 left: a call of the child has room for 30

A *reserve* is kept for the final answer of its own task: no other call has it, neither in the task nor in its
sub-tasks. `binding.py` names the account with the least left.
"""

from __future__ import annotations

from .accounts import Account
from .amounts import NOTHING, Amount, Room, Shortage


def inherited_room(account: Account, *, final: bool = False) -> Room:
    """The largest hold that the account and all accounts above have room for.

    Args:
        final: the call gives the task's final answer, so it may use the account's own reserve.
    """
    tokens: int | None = None
    nano: int | None = None
    extra = account.reserve if final else NOTHING
    for a in account.path:
        if (left := a.tokens_left) is not None:
            tokens = left + extra.tokens if tokens is None else min(tokens, left + extra.tokens)
        if (left := a.nano_left) is not None:
            nano = left + extra.nano if nano is None else min(nano, left + extra.nano)
    return Room(tokens, nano, inherited_deadline(account, final=final))


def inherited_deadline(account: Account, *, final: bool = False) -> float:
    """When a call has to be over: the earliest end of the path, less the seconds kept for final answers.

    Args:
        final: the call gives the task's final answer, so it may use the account's own reserved seconds.
    """
    end = account.deadline
    if account.parent is not None:
        end = min(inherited_deadline(account.parent), end)
    return end if final else end - account.reserved_seconds


def shortage_on_path(account: Account, extra: Amount) -> Shortage | None:
    """The first account from this one up, and its first unit, without room for `extra`."""
    for a in account.path:
        short = a.shortage_of(extra)
        if short is not None:
            return short
    return None
