"""The engines that sample for the trainer, behind one seam (`engine.Engine`).

adapter_server  Servers that sample with adapters in training.
adapters        LoRA adapters as folders that a server loads while they are in training.
colocated/      The engine "vllm": vLLM in this process, with a copy of the weights.
correction      Has TRL sync a copy of the weights, and correct for its log-probs.
engine          The seam: the type of an engine, and the model that one may read.
full_server     A server that reloads all weights, and is found out when it has others.
full_weights    All weights to servers, through a folder.
in_process      The engine "transformers": the weights in training, in this process.
logprobs        How far the log-probs of the engine that sampled are from the trainer's own.
nccl            All weights to servers, from GPU to GPU.
probe           Log-probs of a fixed text on both sides, which tell fresh weights from stale ones.
registry        The engines by name: the table to extend.
served_backend  The servers of a run as one Backend: one that is lost gets the weights again.
server_seat     One of a run's servers as a Backend, for as long as it has the weights.
serving         Serves an engine of this process as a Backend, for a batch of agents' calls.
vllm_server     One vLLM server, however the weights get there.
vllm_servers    The engine "vllm-server": several servers, retries, the weights of each batch.
ways            The ways in which servers get weights, by name: the table to extend.
weight_files    Weights as safetensors, written one at a time.
weights         The weights in training as a checkpoint would have them, one at a time.
"""
