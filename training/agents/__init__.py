"""Agent rollouts: episodes of several turns with tools, each turn under a grant of its own.

environment   what you write: an `Episode` for each problem, its tools and how it reads tool calls
tools         runs tools, sync or async, that may raise, hang or say anything
splice        the ids between two turns, as the chat template writes them
play          the loop: grant, sample, run tools, splice, until the final answer
rollouts      episodes for TRL: who gets which cap and which limits
fields        the `agent` section of a training config
lookups       a small environment that ships: stock problems whose lines must be looked up
"""

from .environment import (
    Environment,
    Episode,
    MalformedCallError,
    ToolCall,
    parse_tool_calls,
)

__all__ = ["Environment", "Episode", "MalformedCallError", "ToolCall", "parse_tool_calls"]
