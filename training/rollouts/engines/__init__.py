"""The engines that sample for the trainer, behind one seam (`engine.Engine`).

adapter_server  One vLLM server that samples with adapters in training.
adapters        LoRA adapters as folders that a server loads while they are in training.
colocated/      The engine "vllm": vLLM in this process, with a copy of the weights.
correction      Has TRL sync a copy of the weights, and correct for its log-probs.
engine          The seam: the type of an engine, and the model that one may read.
in_process      The engine "transformers": the weights in training, in this process.
logprobs        How far the log-probs of the engine that sampled are from the trainer's own.
registry        The engines by name: the table to extend.
vllm_servers    The engine "vllm-server": several servers, retries, the adapter of each batch.
weights         The weights in training as a checkpoint would have them, one at a time.
"""
