"""The options of one call: the model's fields, with the call's own keyword arguments over them.

Every option that changes an answer is in `CallOptions.key()`, by which LangChain's cache finds answers. So an
answer under a small budget is never replayed under a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from langchain_core.language_models.base import LangSmithParams

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.wrap_up import wrap_up_of
from elastic_agent.scheduler.allocation.call_terms import OnExhausted, check_terms
from elastic_agent.validation import integer, put

from ..metadata import PROVIDER

MOST_ANSWERS = 128
"""The largest `n`."""
ANSWER_NOW = "The budget is used up. Answer now, with what you know, without tools."
"""Ends the prompt of a call with tools that became its task's final answer (`on_exhausted="answer"`)."""
_SEED_STEP = 1_000_003
"""Between the seeds of a call's answers: larger than the number of passes of a call."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call. Those not listed are the fields of the same name in `ElasticFields`.

    Attributes:
        sampling: how tokens are drawn.
        stop: strings that end the solution.
        tools: OpenAI-style tool schemas for the chat template.
        guide: the engine's fields for the solution's pass (`openai_format.guided_decoding`).
        buffered: nobody reads along, so a segment's text comes at its end, decoded once.

    Raises:
        InvalidBudgetError: a limit that no call can obey.
        InvalidValueError: another option of the wrong type or out of range.
    """

    model: str
    thinking_budget: int | None
    solution_budget: int
    max_tokens: int | None
    n: int
    kind: str
    final: bool
    weight: float
    priority: int
    on_exhausted: OnExhausted | None
    label: str | None
    early_exit: EarlyExit | None
    wrap_up: str | None
    sampling: Sampling
    stop: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...]
    guide: Mapping[str, Any]
    buffered: bool = False

    def __post_init__(self) -> None:
        asked = Budget(thinking=self.thinking_budget, solution=self.solution_budget)
        put(self, "thinking_budget", asked.thinking)
        put(self, "solution_budget", asked.solution)
        if self.max_tokens is not None:
            put(self, "max_tokens", integer("max_tokens", self.max_tokens, least=1, error=InvalidBudgetError))
        put(self, "n", integer("n", self.n, least=1, most=MOST_ANSWERS, of="answers"))
        weight, priority = check_terms(self.weight, self.priority, self.on_exhausted)
        put(self, "weight", weight)
        put(self, "priority", priority)
        if self.wrap_up:
            wrap_up_of(self.wrap_up)

    def budget(self, close: int) -> Budget:
        """The Budget asked for. Under `max_tokens` the solution keeps its part and thinking gives way.

        Args:
            close: length of the longest forced close, in tokens; it counts against `max_tokens`.

        Raises:
            InvalidBudgetError: a limit that can't be obeyed.
        """
        asked = Budget(thinking=self.thinking_budget, solution=self.solution_budget)
        if self.max_tokens is None:
            return asked
        room = self.max_tokens - close
        if room < 1:
            raise InvalidBudgetError(f"max_tokens={self.max_tokens} holds no answer: the close takes {close}")
        solution = min(asked.solution, room)
        thinking = min(room - solution, room if asked.thinking is None else asked.thinking)
        return Budget(thinking=thinking, solution=solution)

    def answers(self) -> list[CallOptions]:
        """The options of each of the call's `n` answers, buffered, each with a seed of its own."""
        one, seed = replace(self, n=1, buffered=True), self.sampling.seed
        if seed is None:
            return [one] * self.n
        samplings = [replace(one.sampling, seed=seed + i * _SEED_STEP) for i in range(self.n)]
        return [replace(one, sampling=sampling) for sampling in samplings]

    def key(self) -> dict[str, Any]:
        """What the answer depends on. Kind, weight and the like only matter to a task (see `cache`)."""
        names = ("model", "thinking_budget", "solution_budget", "max_tokens", "n", "wrap_up")
        return {
            **{name: getattr(self, name) for name in names},
            **{name: getattr(self.sampling, name) for name in SAMPLING},
            "stop": list(self.stop),
            "tools": [dict(tool) for tool in self.tools],
            "guide": dict(self.guide),
            "early_exit": None if self.early_exit is None else self.early_exit.to_dict(),
        }


SAMPLING = ("temperature", "top_p", "top_k", "seed")
"""Keyword arguments that `CallOptions.sampling` is made of."""
PER_CALL = frozenset(one.name for one in fields(CallOptions)) | {*SAMPLING}
PER_CALL -= {"sampling", "stop", "tools", "guide", "buffered"}
"""Keyword arguments of `invoke`, `bind` and the like that say how a call is made; fields of the model too."""
NULLABLE = frozenset(
    {"thinking_budget", "max_tokens", "seed", "on_exhausted", "label", "early_exit", "wrap_up"}
)
"""Those in PER_CALL for which None is a value; for the others None means the model's own value."""


def given_per_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of PER_CALL that were given; None only where it is a value."""
    return {n: v for n, v in given.items() if n in PER_CALL and (v is not None or n in NULLABLE)}


CHAT = frozenset({"tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"})
"""A chat model's further keyword arguments; `strict` has been obeyed when the tools were bound."""
IGNORED = frozenset({"stream", "ls_structured_output_format"})
"""LangChain's own keyword arguments, with nothing to obey."""


def check_names(given: Mapping[str, Any], *, chat: bool) -> None:
    """Refuse unknown keyword arguments: a misspelt budget must not be ignored.

    Raises:
        TypeError: names the unknown arguments, and all that exist.
    """
    known = PER_CALL | IGNORED | (CHAT if chat else frozenset())
    if unknown := sorted(set(given) - known):
        raise TypeError(f"unknown call options {', '.join(unknown)}; there are {', '.join(sorted(PER_CALL))}")


def chosen_tools(tools: Sequence[Mapping[str, Any]], choice: object) -> tuple[Mapping[str, Any], ...]:
    """The tools that the model is shown: none, all, or the chosen one.

    Raises:
        ValueError: the chosen tool is not among them.
    """
    if choice in (None, "auto", "any", "required", True):
        return tuple(tools)
    if choice in ("none", False):
        return ()
    name = choice.get("function", {}).get("name") if isinstance(choice, Mapping) else choice
    found = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not found:
        raise ValueError(f"tool_choice {name!r} is not among the tools")
    return found


def tracing_params(options: CallOptions, kind: Literal["chat", "llm"]) -> LangSmithParams:
    """LangSmith's parameters of a call: its own model, budget and sampling, not the constructor's."""
    params = LangSmithParams(
        ls_provider=PROVIDER,
        ls_model_name=options.model,
        ls_model_type=kind,
        ls_temperature=options.sampling.temperature,
    )
    if options.max_tokens is not None:
        params["ls_max_tokens"] = options.max_tokens
    elif options.thinking_budget is not None:
        params["ls_max_tokens"] = options.thinking_budget + options.solution_budget
    if options.stop:
        params["ls_stop"] = list(options.stop)
    return params
