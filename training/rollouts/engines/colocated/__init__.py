"""The engine "vllm": vLLM in the process that trains, with a copy of the weights of its own.

decoder  vLLM's engine as a batch decoder: budgets are kept by the machines of live calls.
engine   The engine: starts vLLM, gives it the weights before each batch, checks that it took them.
"""
