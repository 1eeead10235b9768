"""Everything that this library raises.

    ElasticError
    ├── InvalidValueError (ValueError)    a number of the wrong type, not finite or out of range
    │   ├── InvalidBudgetError            a Budget that can't be obeyed
    │   └── InvalidCapsError              Caps that can't be kept
    ├── UsageError (ValueError)           a command line that can't be read
    ├── ConfigError (ValueError)          a config that can't be used: which field, and what to do
    ├── UnknownModelError                 no such model: names what there is
    ├── UncountablePromptError            a part of a prompt has no bound in tokens (an image, say)
    ├── UncountedModelError               a model called inside a task that can't count its tokens
    ├── NoMarkersError                    the model has no end-of-thinking marker
    ├── InvalidMarkersError (ValueError)  what was given as markers is none
    ├── UnknownPriceError                 a money cap, but no price for the model
    ├── ContextLengthError                the prompt does not fit
    ├── ControlTokenError (ValueError)    a chat template makes a control token out of what was sent
    ├── UnsupportedError                  the model's engine can't do what the call asks
    ├── DataError (ValueError)            a data set that can't be read, trained on or graded
    ├── CapExceededError                  refused before a token was spent: what was needed, what is left
    │   └── DeadlineError                 the same for time
    ├── EndpointBusyError                 too many calls wait for a model already: when to try again
    ├── TaskClosedError                   a call on a task that has ended
    ├── ScopeError                        a task was left in another context, and its calls missed it
    ├── StoreError                        a ledger store was asked for something that can't be
    │   ├── StoreUnavailableError         it could not be reached, is full, or did not answer in time
    │   ├── LeaseLostError                a hold ended while its process slept: nothing more was sent
    │   ├── StoreClockError               its clock is far behind the time that it has seen
    │   ├── StoreForgotError              it lost what it had acknowledged: replaced, emptied, restored
    │   ├── UnknownAccountError           nobody opened an account of this name there
    │   ├── UnknownHoldError              nobody took a hold under this key there, or it is long over
    │   └── StoreVersionError             its schema is newer than this library
    └── BackendError                      the upstream failed
        ├── BackendUnavailableError       it could not be reached, or ended the stream in the middle
        └── BackendProtocolError          it answered with something that can't be trusted

A message says what to do. Errors that carry numbers carry them as attributes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for a message that goes on: "did you mean X? " with the nearest name; empty if none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]}? " if near else ""


class ElasticError(Exception):
    """Base of every error of this library."""


class InvalidValueError(ElasticError, ValueError):
    """A number that a person or a client wrote can't be used: the message says what is allowed."""


class InvalidBudgetError(InvalidValueError):
    """A Budget that no call can obey."""


class InvalidCapsError(InvalidValueError):
    """Caps that no task can keep."""


class UsageError(ElasticError, ValueError):
    """A command line that can't be read: says which argument, and what it takes."""


class ConfigError(ElasticError, ValueError):
    """A config that can't be used; says which field, and what to do."""


class UnknownModelError(ElasticError):
    """No model of this name, path or hub id."""


class UncountablePromptError(ElasticError):
    """A part of a prompt whose tokens nothing bounds: an image, a file, a provider's own tool."""


class UncountedModelError(ElasticError):
    """A model is called inside a task that can't count it, and that refuses such. Nothing was sent."""


class NoMarkersError(ElasticError):
    """The model has no end-of-thinking marker, so its thinking can't be budgeted."""


class InvalidMarkersError(ElasticError, ValueError):
    """What was given as the markers of a model is no pair of markers."""


class UnknownPriceError(ElasticError):
    """A money cap is set and nothing says what the model costs."""


class ContextLengthError(ElasticError):
    """Prompt, close and solution do not fit into the model's context."""


class ControlTokenError(ElasticError, ValueError):
    """A chat template makes a control token of the model out of text that was sent. Nothing was spent."""


class UnsupportedError(ElasticError):
    """The call asks for what the model's engine can't do: guided decoding, say. Nothing was spent."""


class DataError(ElasticError, ValueError):
    """A data set that can't be read, trained on or graded: says which file, which line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The account whose cap binds, in one unit: what a refusal is about.

    Attributes:
        account: its name on the ledger.
        unit: "tokens", "nano" (nano-dollars) or "seconds".
        cap, spent, held: of that unit, over everything below the account.
        reserved: the part of `held` that open tasks keep for final answers; it comes back when they end.
        calls: running calls that hold the rest.
        keepers: names of accounts with a reserve, `NAMED` and one more at most.
        shared: the account belongs to a store, above all tasks.
        window: "day" or "month" where the cap starts anew with each.
    """

    NAMED: ClassVar[int] = 3

    account: str
    unit: str
    cap: float
    spent: float
    held: float
    reserved: float = 0
    calls: int = 0
    keepers: tuple[str, ...] = ()
    shared: bool = False
    window: str | None = None

    @property
    def argument(self) -> str:
        """What to raise: "tokens", "usd" or "seconds"."""
        return "usd" if self.unit == "nano" else self.unit

    @property
    def left(self) -> float:
        """What is neither spent nor held."""
        return max(0, self.cap - self.spent - self.held)

    def __str__(self) -> str:
        who = f"{'account' if self.shared else 'task'} {self.account!r}"
        if self.unit == "seconds":
            return f"seconds={self.cap:g} of {who} binds: {self.spent:.2f} s of it have passed"
        window = f" a {self.window}" if self.window else ""
        used = f"{self._text(self.spent)} spent, {self._text(self.held)} held{self._holders()}"
        return f"{self.argument}={self._plain(self.cap)}{window} of {who} binds: {used}"

    def _holders(self) -> str:
        """By whom it is held, in brackets."""
        parts = []
        if self.reserved > 0:
            names = ", ".join(repr(name) for name in self.keepers[: self.NAMED])
            by = f" of {names}{' and others' if len(self.keepers) > self.NAMED else ''}" if names else ""
            parts.append(f"{self._text(self.reserved)} for final answers{by}")
        if self.held > self.reserved:
            by = f"{self.calls} running call{'' if self.calls == 1 else 's'}" if self.calls else "others"
            parts.append(f"{self._text(self.held - self.reserved)} by {by}")
        return f" ({', '.join(parts)})" if parts else ""

    def to_dict(self) -> dict[str, Any]:
        """For programs; money in dollars."""
        scale = 1_000_000_000 if self.unit == "nano" else 1
        found: dict[str, Any] = {"account": self.account, "unit": self.argument}
        for name in ("cap", "spent", "held", "reserved", "left"):
            found[name] = getattr(self, name) / scale
        return found | {"calls": self.calls, "window": self.window}

    def _plain(self, amount: float) -> str:
        if self.unit == "nano":
            return f"{amount / 1_000_000_000:.9f}".rstrip("0").rstrip(".")
        return f"{int(amount)}"

    def _text(self, amount: float) -> str:
        return f"${self._plain(amount)}" if self.unit == "nano" else f"{int(amount):,}"


class CapExceededError(ElasticError):
    """Refused before a token was spent: the cap can't hold it.

    Attributes:
        needed: the least that would have been needed, by unit ("tokens", "usd", "seconds").
        available: what is left, by the same units.
        binding: the account whose cap binds, with its numbers; None where no account was looked for.
    """

    def __init__(
        self,
        message: str,
        *,
        needed: Mapping[str, float] | None = None,
        available: Mapping[str, float] | None = None,
        binding: Binding | None = None,
    ) -> None:
        super().__init__(message)
        self.needed = dict(needed or {})
        self.available = dict(available or {})
        self.binding = binding

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args[0], self.needed, self.available, self.binding)


def _rebuild(
    kind: type[CapExceededError],
    message: str,
    needed: dict[str, float],
    available: dict[str, float],
    binding: Binding | None,
) -> CapExceededError:
    return kind(message, needed=needed, available=available, binding=binding)


class DeadlineError(CapExceededError):
    """Refused, or ended without an answer, because the deadline can't hold it."""


class EndpointBusyError(ElasticError):
    """Refused before a token was spent: too many calls wait for this model already.

    Attributes:
        retry_after: seconds until a place is expected to be free.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return EndpointBusyError, (self.args[0], self.retry_after)


class TaskClosedError(ElasticError):
    """The task has ended; it takes no more calls."""


class ScopeError(ElasticError):
    """A task could not cover the calls that were made while it was open: its context was another one."""


class StoreError(ElasticError):
    """A ledger store was asked for something that can't be."""


class StoreUnavailableError(StoreError):
    """A ledger store could not be reached, is full, or did not answer in time: no call leaves without it."""


class LeaseLostError(StoreError):
    """A hold has ended while its process did not renew it: nothing is sent on it any more."""


class StoreClockError(StoreError):
    """A ledger store's clock is far behind the time that it has seen: nothing is held until it is right."""


class StoreForgotError(StoreError):
    """A ledger store knows less than it has acknowledged: it was emptied, replaced, or put back."""


class UnknownAccountError(StoreError):
    """A ledger store knows no account of this name."""


class UnknownHoldError(StoreError):
    """A ledger store knows no hold under this key."""


class StoreVersionError(StoreError):
    """A ledger store's schema is from a newer version of this library."""


class BackendError(ElasticError):
    """The upstream failed."""


class BackendUnavailableError(BackendError):
    """The upstream could not be reached, or its stream broke off."""


class BackendProtocolError(BackendError):
    """The upstream's answer can't be trusted: malformed, or not what was asked for."""
