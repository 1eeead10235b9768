"""An agent for models that talk at random: two turns look something up, whatever they say; one answers."""

from collections.abc import Mapping
from typing import Any

TALKS: dict[str, Any] = {
    "data": {"source": "lookups"},
    "agent": {
        "run": f"{__name__}:talks",
        "caps": {"tokens": [30, 90]},
        "llm": {"solution_budget": 10},
    },
    "budgets": None,
    "reward": {"kind": "word-problems"},
    "rollout": {"prompts": 4, "group": 4, "context": 256},
}
"""Changes to `small`: a run of this agent."""


async def talks(row: Mapping[str, Any], llm: Any, turns: int = 3) -> float:
    """A reward that random models can earn."""
    messages: list[Any] = [(message["role"], message["content"]) for message in row["prompt"]]
    earned = 0.0
    for turn in range(turns):
        said = await llm.ainvoke(messages, final=turn + 1 == turns)
        earned += (len(said.text) % 7) / 7
        messages += [("assistant", said.text), ("user", row["lines"][0])]
    return earned / turns
