"""Samples under budgets: drawn in process, or by vLLM servers that get the weights in training.

adapter_server  One vLLM server that samples with adapters in training.
registry        Problem sources, rollout engines and agents' environments by name.
two_phase       Budget-constrained rollouts: what E1 is trained on (Elastic Reasoning, arXiv
                2505.05315, section 3.2).
vllm_servers    The engine "vllm-server": vLLM servers sample, and get the adapters in training before
                each batch.
"""
