"""Draws samples under budgets, with the weights in training. May import budgets and config.

ahead         The next batch is sampled while the trainer learns from the last one.
engines/      Who samples: in this process, or vLLM servers that get the weights in training.
in_flight     The batch that is sampled ahead, in a thread of its own.
prompts       Prompts as ids, with the codec of live calls.
rollout       One sample: its two-phase machine, and what the trainer needs of it.
single_calls  Rollouts of single calls, which E1 is trained on. Those of episodes are in agents/, those under
              anytime rewards in grpo/.
trl_columns   What TRL asks of a ``rollout_func``.
"""
