"""The workshop of e1-tiny, the small model that ships: how its weights and its model cards were made.

Run from a clone; nothing here is in the wheel, and no part of `elastic_agent` imports it.

agent_traces  Episodes that demonstrate how an agent looks up the lines of a problem.
model         The architecture: a small Qwen3 with random weights.
model_card    Writes the README of both model folders from measured points.
muon          The optimizer of the weight matrices.
sft           Stage (a): `python -m tools.e1_tiny.sft` trains the base. Stage (b) is `elastic-agent train`.
tokenizer     The vocabulary of 168 words, and the chat template.
traces        Reasoning traces in four styles, the data of stage (a).
"""
