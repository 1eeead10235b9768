"""What is said of a call when it asks for tokens: its user's terms, its size in tokens, its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from elastic_agent.usage import Probes
from elastic_agent.validation import integer, one_of, real

from ..estimates.call_stats import UsageStats
from ..estimates.online_curves import Curves
from ..latency.model import Speeds
from ..ledger.prices import Price

OnExhausted = Literal["shrink", "wait", "raise", "answer"]
"""What a call does that the caps can't hold whole: `shrink` waits for refunds while any may come, then takes
less, at last the final answer's reserve; `wait` only waits; `raise` is refused at once; `answer` waits, and
when nothing comes back it is asked for the final answer instead, within the reserve."""

MOST_WORTH = 1e9
"""The largest weight of a call and value of a task."""
MOST_PRIORITY = 2**31 - 1
"""The largest priority of a call; the smallest is its negative."""


def check_terms(weight: object, priority: object, on_exhausted: object) -> tuple[float, int]:
    """The weight and the priority of a call as numbers.

    Raises:
        InvalidValueError: one of the three is of the wrong type or out of range.
    """
    if on_exhausted is not None:
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
    return (
        real("weight", weight, above=True, most=MOST_WORTH),
        integer("priority", priority, least=-MOST_PRIORITY, most=MOST_PRIORITY, of=""),
    )


@dataclass(frozen=True, slots=True)
class CallTerms:
    """What a user says of a call, beside its prompt and its limits: the arguments of `Task.call`.

    Raises:
        InvalidValueError: one of them is of the wrong type or out of range.
    """

    kind: str = "call"
    final: bool = False
    weight: float = 1.0
    priority: int = 0
    on_exhausted: OnExhausted = "shrink"
    label: str | None = None

    def __post_init__(self) -> None:
        weight, priority = check_terms(self.weight, self.priority, self.on_exhausted)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "priority", priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSize:
    """A call in tokens.

    Attributes:
        prompt: its whole prompt.
        fresh: the part of the prompt that the upstream will probably have to read: all, unless it says that
            it mostly has the prompts of a task's later calls.
        thinking: most thinking tokens it may have: its own limit and the context's.
        solution: most solution tokens it may have.
        close: the marker tokens that end its thinking where it is cut.
        probes: of its answer while it thinks; None: there are none.
        read: input tokens of passes that it has made already.
    """

    prompt: int
    fresh: int
    thinking: int
    solution: int
    close: int = 0
    probes: Probes | None = None
    read: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of the model that a call goes to.

    Attributes:
        latency: the speed of its endpoint.
        usage_stats: what its latest calls were like.
        price: None: unknown, and no cap on money is set.
    """

    name: str
    curves: Curves
    latency: Speeds
    usage_stats: UsageStats
    price: Price | None = None
