"""What one call was asked to do: the model's fields, with the call's own keyword arguments over them.

Everything that changes an answer is in `CallOptions`, and its `key()` is what LangChain's cache looks answers
up by: an answer thought under a small budget is never replayed under a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.language_models.base import LangSmithParams

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.wrap_up import wrap_up_of
from elastic_agent.scheduler.allocation.request import OnExhausted, check_terms
from elastic_agent.validation import integer, put

PER_CALL = frozenset(
    {
        "thinking_budget",
        "solution_budget",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "model",
        "kind",
        "final",
        "weight",
        "priority",
        "on_exhausted",
        "label",
        "early_exit",
        "wrap_up",
        "n",
    }
)
"""Keyword arguments of `invoke`, `bind` and the like that say how a call is made; fields of the model too."""

NULLABLE = frozenset(
    {"thinking_budget", "max_tokens", "seed", "on_exhausted", "label", "early_exit", "wrap_up"}
)
"""Those of them for which None says something; for the others it means "as the model has it"."""

CHAT = frozenset({"tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"})
"""Those of a chat model besides; `strict` has been obeyed when the tools were bound."""
IGNORED = frozenset({"stream", "ls_structured_output_format"})
"""LangChain's own; nothing to obey in them."""

MOST_ANSWERS = 128
"""The largest `n`."""
ANSWER_NOW = "The budget is used up. Answer now, with what you know, without tools."
"""Ends the prompt of a call with tools that `on_exhausted="answer"` turns into the final answer."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """One call.

    Attributes:
        model: name of the model.
        thinking: most thinking tokens; None leaves it to the task, or to the model's context.
        solution: most solution tokens.
        max_tokens: most tokens of the whole answer, or None; the solution keeps its part, thinking gives way.
        sampling: how tokens are drawn.
        stop: strings that end the solution.
        tools: OpenAI-style tool schemas for the chat template.
        guide: the engine's fields for the solution's pass (`wire.guided`).
        n: answers to give, each a call of its own.
        kind: what kind of call this is, for curves.
        final: the task's answer.
        weight: worth relative to the task's other calls.
        priority: lower goes first where the engine can choose.
        on_exhausted: what to do when the task's caps can't hold the call; None is the task's own way.
        label: what the task's log and report call it.
        early_exit: how thinking ends when its answer no longer changes; None: it doesn't.
        wrap_up: what is written before a forced close; None: the task's scheduler says, or nothing.
        whole: nobody reads along: the text of a segment comes at its end, decoded once.

    Raises:
        InvalidBudgetError: a limit that no call can obey.
        InvalidValueError: another option of the wrong type or out of range.
    """

    model: str
    thinking: int | None
    solution: int
    max_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...]
    guide: Mapping[str, Any]
    n: int
    kind: str
    final: bool
    weight: float
    priority: int
    on_exhausted: OnExhausted | None
    label: str | None
    early_exit: EarlyExit | None
    wrap_up: str | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        asked = Budget(thinking=self.thinking, solution=self.solution)
        put(self, "thinking", asked.thinking)
        put(self, "solution", asked.solution)
        if self.max_tokens is not None:
            put(self, "max_tokens", integer("max_tokens", self.max_tokens, least=1, error=InvalidBudgetError))
        put(self, "n", integer("n", self.n, least=1, most=MOST_ANSWERS, of="answers"))
        weight, priority = check_terms(self.weight, self.priority, self.on_exhausted)
        put(self, "weight", weight)
        put(self, "priority", priority)
        if self.wrap_up:
            wrap_up_of(self.wrap_up)

    def budget(self, close: int) -> Budget:
        """The Budget asked for.

        Args:
            close: length of the longest forced close, in tokens; it counts against `max_tokens`.

        Raises:
            InvalidBudgetError: a limit that can't be obeyed.
        """
        asked = Budget(thinking=self.thinking, solution=self.solution)
        if self.max_tokens is None:
            return asked
        room = self.max_tokens - close
        if room < 1:
            raise InvalidBudgetError(f"max_tokens={self.max_tokens} holds no answer: the close takes {close}")
        solution = min(asked.solution, room)
        return Budget(
            thinking=min(room - solution, room if asked.thinking is None else asked.thinking),
            solution=solution,
        )

    def key(self) -> dict[str, Any]:
        """What the answer depends on. Kind, weight and the like only matter to a task: see `_cache`."""
        return {
            "model": self.model,
            "thinking_budget": self.thinking,
            "solution_budget": self.solution,
            "max_tokens": self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "seed": self.sampling.seed,
            "stop": list(self.stop),
            "tools": [dict(tool) for tool in self.tools],
            "guide": dict(self.guide),
            "n": self.n,
            "early_exit": None if self.early_exit is None else self.early_exit.to_dict(),
            "wrap_up": self.wrap_up,
        }


def check_names(given: Mapping[str, Any], *, chat: bool) -> None:
    """Refuse keyword arguments that nobody would obey: a misspelt budget must not be ignored.

    Raises:
        TypeError: names them, and what there is.
    """
    known = PER_CALL | IGNORED | (CHAT if chat else frozenset())
    if unknown := sorted(set(given) - known):
        raise TypeError(f"unknown call options {', '.join(unknown)}; there are {', '.join(sorted(PER_CALL))}")


def chosen_tools(tools: Sequence[Mapping[str, Any]], choice: object) -> tuple[Mapping[str, Any], ...]:
    """The tools that the model is shown: none, all, or the one that was chosen.

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


def tracing(options: CallOptions, kind: Literal["chat", "llm"]) -> LangSmithParams:
    """What LangSmith is told: the call's own model, budget and sampling, not the constructor's."""
    told = LangSmithParams(
        ls_provider="elastic_agent",
        ls_model_name=options.model,
        ls_model_type=kind,
        ls_temperature=options.sampling.temperature,
    )
    if options.max_tokens is not None:
        told["ls_max_tokens"] = options.max_tokens
    elif options.thinking is not None:
        told["ls_max_tokens"] = options.thinking + options.solution
    if options.stop:
        told["ls_stop"] = list(options.stop)
    return told
