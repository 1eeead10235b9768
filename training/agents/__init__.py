"""Agent rollouts: episodes of several turns with tools, each turn under a grant of its own. May import
budgets, config and rollouts.

agent               What the `agent` section of a config stands for; the environments by name.
environment         What you write: an `Episode` for each problem, its tools, and how its tool calls are read.
episode_runner      The loop: a grant, a sample, the tools, the turn renderer, until the final answer.
lookup_environment  A small environment that ships: word problems whose lines must be looked up.
rollouts            Episodes for TRL: which cap and which limits each gets.
sequences           From the calls of an episode to the sequences of its row.
tools               Runs tools, sync or async, that may raise, hang or return anything.
turn_renderer       The ids between two turns, as the chat template writes them.
"""

from .environment import (
    Environment,
    Episode,
    MalformedCallError,
    ToolCall,
    parse_tool_calls,
)

__all__ = ["Environment", "Episode", "MalformedCallError", "ToolCall", "parse_tool_calls"]
