"""What is ours around TRL's GRPO trainer.

adapters     LoRA adapters as folders that a server loads while they are in training.
advantages   Credit under anytime rewards: which answers a token is responsible for, as advantages.
anytime      Anytime rewards: one thinking, answered at several cuts (after AnytimeReasoner, arXiv
             2505.13438).
checkpoints  Which checkpoint can be trusted after a crash.
export       Loading the weights that a run starts from, and writing those that it ends with.
logger       What a run leaves for people: a line a batch with the time left, `metrics.csv`, and
             `metrics.svg`.
logprobs     How far the log-probs of whoever sampled are from the trainer's own, for the same tokens.
metrics      What a batch of rollouts looked like, segment by segment: the metrics of a training step,
             without IO.
trainer      TRL's GRPOTrainer with six additions; each overrides methods, and nothing of TRL is
             copied.
validate     Everything about a run that can be wrong before a weight is loaded, checked in the order
             of its cost.
"""
