"""`elastic-agent prepare`: a folder of any causal language model that is ready for E1 training. May import
config, data, rewards, rollouts and grpo.

base            The model to start from: config, tokenizer, rows of its embedding; no weights.
markers         Which markers it thinks between: its own, tokens in spare rows, or plain text.
token_files     Gives a token of a saved tokenizer another text.
template        A chat template that opens thinking, and leaves out that of earlier answers.
prepared        Puts the three together: tokenizer, template, first weights.
traces          Rows of question, thinking and solution, checked before anything is loaded.
examples        Traces as ids with their loss mask; which are kept apart for the check; the order of the run.
cold_start      SFT on the examples by TRL, with checkpoints.
settings        What decides a run, and whether a folder goes on with it.
check           What the model does with its budgets afterwards.
run             The command, from its options to its last line; `cli` has the options.
"""

from .run import main

__all__ = ["main"]
