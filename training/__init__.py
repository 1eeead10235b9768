"""How a model learns to be cut anywhere: data, supervised base, budget-constrained GRPO, evaluation.

Nothing heavy is imported here; each module imports torch, transformers or trl itself when it is used.
"""
