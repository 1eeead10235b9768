"""The engine "vllm": vLLM in the process that trains, with a copy of the weights of its own.

cpu_linear  On a CPU only: linear layers that keep their weights as they are, so that a reload reaches them.
decoder     vLLM's engine as a batch decoder: budgets are kept by the machines of live calls.
engine      The engine: starts vLLM, gives it the weights before each batch, checks that it took them.
probe       Log-probs of a fixed text on both sides, which tell fresh weights from stale ones.
"""
