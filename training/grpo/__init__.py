"""The learning: what is ours around TRL's GRPO trainer. May import every room but evaluation.

adapters       Low-rank adapters as they are written, and merged.
advantages     Advantages of tokens: under anytime rewards, and with rewards of calls.
anytime        Anytime rewards: one thinking, answered at several cuts (AnytimeReasoner, arXiv 2505.13438).
attention      What computes attention in training, and whether this machine can.
batch_metrics  A batch of all processes, measured.
buckets        Log-probs in buckets of like length, without the rows that can't change the update.
checkpoints    Checkpoints that survive a crash: how they are written, and which can be used.
export         Loading the weights that a run starts from, and writing those that it ends with, one at a time.
launch         Several processes: what the launcher started, and that accelerate runs just this.
logger         A line a batch with the time left, `metrics.csv` and `metrics.svg`.
metrics        The metrics of a batch, segment by segment.
output_lock    One run at a time on an output folder.
phases         Seconds of a batch by phase, and tokens a second.
resuming       Whether a config goes on with the run whose checkpoints lie in its output.
sample_table   Rollouts to read, in `samples.jsonl`.
sharding       Weights of which each process holds a part (FSDP2, ZeRO-3): gathered to decode.
spans          Which columns of a batch belong together: the sequences of its rows.
stopping       How a run ends early, with a checkpoint: signals, a lost engine, a lost process.
trainer        TRL's GRPOTrainer: the overrides of its private methods, and nothing else.
validate       Checks everything about a run that can be wrong before a weight is loaded.
validation     Problems held out, answered at fixed budgets during training.
"""
