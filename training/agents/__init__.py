"""Agents in training: each sample is an episode of the agent's own coroutine in a real task of the scheduler.

May import budgets, config and rollouts, and, alone in this part, the scheduler: a task in training is a task
in production. Only `clients` imports integrations, inside functions: an agent goes through the doors that it
has in production.

result      what an agent returns: `EpisodeResult`
episode     one episode: a task, the agent in it, and how it ended
threads     plain functions as agents, on threads of their own
recorder    the calls of an episode as they really were
runner      runs the episodes of a batch side by side, whatever the agents do
sequences   from the calls of an episode to the sequences that the trainer reads
rollouts    episodes for TRL: caps by group, groups that are sampled again, columns
agent       what the `agent` section of a config stands for; the agents by name
clients     the agent's `llm`, and the gateway for agents by wire
command     agents in processes of their own
lookups     a small agent that ships
"""

from .result import EpisodeResult

__all__ = ["EpisodeResult"]
