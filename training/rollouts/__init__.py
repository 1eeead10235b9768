"""Draws samples under budgets: in process, or on vLLM servers that get the weights in training.

May import budgets, config, data, and agents.

adapter_server  One vLLM server that samples with adapters in training.
adapters        LoRA adapters as folders that a server loads while they are in training.
logprobs        How far the log-probs of the engine that sampled are from the trainer's own.
registry        Problem sources, rollout engines and agents' environments by name: the tables to extend.
two_phase       Rollouts of single calls, which E1 is trained on; the engine "transformers".
vllm_servers    The engine "vllm-server": several servers, retries, the adapter of each batch.
"""
